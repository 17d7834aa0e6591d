#include "common/json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/http/server.hpp"

namespace common {

std::string to_json(std::string_view text) { return nlohmann::json(text).dump(); }

std::string json_object(
    std::initializer_list<std::pair<std::string_view, std::string_view>> members) {
  std::string json;
  for (const auto& [name, value] : members) {
    json.append(json.empty() ? "{\"" : ",\"").append(name).append("\":").append(value);
  }
  return json += '}';
}

void answer_json(httplib::Response& response, int status, const std::string& json) {
  response.status = status;
  response.set_content(json + "\n", "application/json");
}

bool is_utf8(const std::string& text) {
  // Most is ASCII, and need not be written as JSON to be told so.
  if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x80; })) return true;
  try {
    to_json(text);
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

bool read_msg(const httplib::Request& request, httplib::Response& response, std::string& msg) {
  msg = request.get_param_value("msg");
  if (is_utf8(msg)) return true;
  http::answer_error(response, 400, "msg is not valid UTF-8");
  return false;
}

}  // namespace common
