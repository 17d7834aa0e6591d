#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/http/fields.hpp"

namespace common::http {

inline constexpr std::size_t kMaxRequestLine = 8192;    ///< bytes, without CRLF; more: 414
inline constexpr std::size_t kMaxRequestHead = 16'384;  ///< bytes; more: 431
inline constexpr std::size_t kMaxRequestFields = 100;   ///< more: 431

/// A complete and well-formed request head. All views point into the bytes that were parsed.
struct RequestHead {
  std::size_t size = 0;  ///< bytes from the start of the buffer to the end of the head
  std::string_view method;
  std::string_view path;   ///< as sent, percent escapes and all; starts with '/', or is "*"
  std::string_view query;  ///< behind the '?'
  std::vector<Field> fields;
  bool http_1_0 = false;
  bool keep_alive = true;  ///< what the client asks for (RFC 9112, section 9.3)

  /// The value of the only field of that name; empty where there is none, or more than one.
  std::string_view only(std::string_view name) const;

  /// All values of that name, joined by commas (RFC 9110, section 5.3).
  std::string list(std::string_view name) const;
};

/// Bytes that can only become a complete head if more arrive.
struct IncompleteHead {};

/// Bytes that are no request; the connection has to be closed behind the answer, for nobody can say
/// where the next request would begin.
struct Refusal {
  int status = 400;
  const char* error = "";   ///< one sentence
  std::string_view method;  ///< as far as it was understood, or empty
  std::string_view path;
};

/// Decides what the bytes received so far are. A pure function: of one byte stream it gives the
/// same answer however the bytes were cut into pieces. This is the one place that says what is
/// malformed; each rule names its section of RFC 9112 or RFC 9110.
std::variant<IncompleteHead, RequestHead, Refusal> parse_request_head(std::string_view bytes);

}  // namespace common::http
