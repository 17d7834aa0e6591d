#include "common/http/url.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "common/http/fields.hpp"

namespace common::http {

std::string percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned char byte = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i] == '+' && plus_is_space ? ' ' : text[i];
    }
  }
  return out;
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  constexpr std::string_view kMarks = "-._~";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (is_alnum(c) || kMarks.find(c) != std::string_view::npos) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

bool is_host(std::string_view text) {
  const auto is_name = [](std::string_view name) {
    return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return is_alnum(c) || c == '-' || c == '.' || c == '_';
    });
  };
  if (text.find(':') == std::string_view::npos) return is_name(text);
  in6_addr address{};
  const auto zone = std::min(text.find('%'), text.size());
  return inet_pton(AF_INET6, std::string(text.substr(0, zone)).c_str(), &address) == 1 &&
         (zone == text.size() || is_name(text.substr(zone + 1)));
}

std::string BaseUrl::address() const {
  const bool bracketed = host.find(':') != std::string::npos;
  std::string out = bracketed ? "[" : "";  // added up, g++ 12 warns of what is not there
  return out.append(host).append(bracketed ? "]:" : ":").append(std::to_string(port));
}

std::string BaseUrl::authority() const {
  auto out = BaseUrl{host.substr(0, host.find('%')), port}.address();
  if (port == 80) out.resize(out.size() - 3);
  return out;
}

BaseUrl parse_base_url(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  if (!equal_ignoring_case(text.substr(0, kScheme.size()), kScheme))
    throw std::invalid_argument("it must begin with http://");
  text.remove_prefix(kScheme.size());
  if (text.ends_with('/')) text.remove_suffix(1);

  BaseUrl url;
  if (text.starts_with('[')) {
    const auto end = text.find(']');
    if (end == std::string_view::npos) throw std::invalid_argument("the ']' is missing");
    url.host = text.substr(1, end - 1);
    text.remove_prefix(end + 1);
    // RFC 6874: "%25" and the zone; a plain "%" is what people type.
    const auto zone = std::min(url.host.find('%'), url.host.size());
    if (url.host.substr(zone).starts_with("%25")) url.host.erase(zone + 1, 2);
    if (url.host.find(':') == std::string::npos || !is_host(url.host)) {
      throw std::invalid_argument("the brackets must hold an IPv6 address");
    }
  } else {
    const auto end = std::min(text.find(':'), text.size());
    url.host = text.substr(0, end);
    text.remove_prefix(end);
    if (!url.host.empty() && !is_host(url.host)) {
      throw std::invalid_argument("only a host and a port may follow http://");
    }
  }
  if (url.host.empty()) throw std::invalid_argument("the host is missing");

  if (!text.empty()) {
    if (text.front() != ':') throw std::invalid_argument("only a port may follow the ']'");
    text.remove_prefix(1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), url.port);
    if (error != std::errc() || end != text.data() + text.size() || url.port == 0) {
      throw std::invalid_argument("the port must be a number from 1 to 65535");
    }
  }
  return url;
}

}  // namespace common::http
