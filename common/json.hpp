#pragma once

#include <httplib.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace common {

/// Makes `response` a JSON answer: compact, keys sorted, raw UTF-8, one newline.
void answer_json(httplib::Response& response, int status, const nlohmann::json& json);

/// Well-formed as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(const std::string& text);

/// The `msg` that /echo and /call-echo take: the first one, or empty where there is none. Nothing
/// where it is not valid UTF-8: then `response` is a 400.
std::optional<std::string> read_msg(const httplib::Request& request, httplib::Response& response);

}  // namespace common
