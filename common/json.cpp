#include "common/json.hpp"

#include <algorithm>

namespace common {

std::string to_body(const nlohmann::json& json) { return json.dump() + "\n"; }

void answer_json(httplib::Response& response, int status, const nlohmann::json& json) {
  response.status = status;
  response.set_content(to_body(json), "application/json");
}

void answer_error(httplib::Response& response, int status, std::string_view sentence) {
  answer_json(response, status, {{"error", sentence}});
}

bool is_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if (lead < 0xC2 || lead > 0xF4) return false;
    const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (text.size() - i < length) return false;
    // RFC 3629, section 4: only the second byte has a range that depends on the first.
    const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i + 1) < low || byte(i + 1) > high) return false;
    for (std::size_t k = 2; k < length; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

bool read_msg(const httplib::Request& request, httplib::Response& response, std::string& msg) {
  msg = request.get_param_value("msg");
  if (is_utf8(msg)) return true;
  answer_error(response, 400, "msg is not valid UTF-8");
  return false;
}

}  // namespace common
