#pragma once

#include <httplib.h>

#include <nlohmann/json.hpp>
#include <string>

namespace common {

/// Makes `response` a JSON answer: compact, keys sorted, raw UTF-8, one trailing newline. REQUIRES:
/// strings are valid UTF-8.
void answer_json(httplib::Response& response, int status, const nlohmann::json& json);

/// Well-formed as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(const std::string& text);

/// The `msg` that /echo and /call-echo take; empty where there is none. The first one wins.
/// Answers 400 and returns false where it is not valid UTF-8.
bool read_msg(const httplib::Request& request, httplib::Response& response, std::string& msg);

}  // namespace common
