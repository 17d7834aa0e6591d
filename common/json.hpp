#pragma once

#include <httplib.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace common {

/// Compact, keys sorted, raw UTF-8, one trailing newline. REQUIRES: strings are valid UTF-8.
std::string to_body(const nlohmann::json& json);

/// Makes `response` a JSON answer.
void answer_json(httplib::Response& response, int status, const nlohmann::json& json);

/// The shape of every error: {"error":"<one sentence>"}.
void answer_error(httplib::Response& response, int status, std::string_view sentence);

/// Well-formed as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(const std::string& text);

/// The `msg` that /echo and /call-echo take; empty where there is none. The first one wins.
/// Answers 400 and returns false where it is not valid UTF-8.
bool read_msg(const httplib::Request& request, httplib::Response& response, std::string& msg);

}  // namespace common
