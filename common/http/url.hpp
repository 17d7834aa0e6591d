#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace common::http {

/// Decodes each %XX once; an escape that is not two hex digits stays as it is.
/// `plus_is_space`: as in application/x-www-form-urlencoded, for queries (WHATWG URL, section 5.1).
std::string percent_decode(std::string_view text, bool plus_is_space);

/// Escapes every byte but the unreserved ones (RFC 3986, section 2.3).
std::string percent_encode(std::string_view text);

/// A name, an IPv4 address, or an IPv6 address without brackets, perhaps with a zone.
bool is_host(std::string_view text);

/// Where a service is reached: http://host[:port][/]. No other scheme, path, query or user.
struct BaseUrl {
  std::string host;  ///< is_host()
  std::uint16_t port = 80;

  /// host:port, with brackets round an IPv6 address.
  std::string address() const;
  /// What goes into a Host field: no port where it is 80, and no zone (RFC 6874, section 4).
  std::string authority() const;
};

/// Parses `text`; throws std::invalid_argument with a sentence that says what is wrong.
BaseUrl parse_base_url(std::string_view text);

}  // namespace common::http
