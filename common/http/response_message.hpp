#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>

namespace common::http {

inline constexpr std::size_t kMaxResponseHead = 16'384;  ///< bytes, interim answers (1xx) included
inline constexpr std::size_t kMaxResponseBody = 65'536;  ///< bytes, after chunked decoding

/// A complete answer to a GET.
struct ResponseMessage {
  int status = 0;
  std::string body;  ///< empty unless the status is 200: of other answers only the head is read
  bool reusable = false;  ///< the connection may carry another request
};

/// Bytes that can only become an answer if more arrive.
struct IncompleteResponse {};

/// The peer ended the stream before its answer was complete.
struct TruncatedResponse {};

/// Bytes that are no answer, whatever follows.
struct MalformedResponse {
  const char* error = "";  ///< half a sentence: "it ..."
};

/// Decides what the bytes received so far, from a peer that is not trusted, are (RFC 9112, sections
/// 4, 6.3 and 7.1). `ended`: the peer has closed its side. Interim answers (1xx) are skipped. Pure.
std::variant<IncompleteResponse, ResponseMessage, TruncatedResponse, MalformedResponse>
parse_response(std::string_view bytes, bool ended);

}  // namespace common::http
