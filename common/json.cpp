#include "common/json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/http/server.hpp"

namespace common {

void answer_json(httplib::Response& response, int status, const nlohmann::json& json) {
  response.status = status;
  response.set_content(json.dump() + "\n", "application/json");
}

bool is_utf8(const std::string& text) {
  // Most is ASCII.
  if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x80; })) return true;
  try {
    return !nlohmann::json(text).dump().empty();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

std::optional<std::string> read_msg(const httplib::Request& request, httplib::Response& response) {
  auto msg = request.get_param_value("msg");
  if (is_utf8(msg)) return msg;
  http::answer_error(response, 400, "msg is not valid UTF-8");
  return std::nullopt;
}

}  // namespace common
