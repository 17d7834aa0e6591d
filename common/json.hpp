#pragma once

#include <httplib.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace common {

/// As a JSON string, with its quotes; UTF-8 stays as it is. Throws nlohmann::json::type_error where
/// `text` is not valid UTF-8.
std::string to_json(std::string_view text);

/// A compact object of these names and values, which are JSON. Not made of nlohmann::json objects:
/// their destructors allocate, and to have no memory for that would be the end of the process.
std::string json_object(
    std::initializer_list<std::pair<std::string_view, std::string_view>> members);

/// Makes `response` a JSON answer: `json` and one newline.
void answer_json(httplib::Response& response, int status, const std::string& json);

/// Well-formed as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(const std::string& text);

/// The `msg` that /echo and /call-echo take; empty where there is none. The first one wins.
/// Answers 400 and returns false where it is not valid UTF-8.
bool read_msg(const httplib::Request& request, httplib::Response& response, std::string& msg);

}  // namespace common
