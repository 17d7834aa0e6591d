#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "common/http/request_head.hpp"

namespace common::http {

inline constexpr std::size_t kMaxResponseHead = 16'384;  ///< bytes, interim answers (1xx) included
inline constexpr std::size_t kMaxResponseBody = 65'536;  ///< bytes, after chunked decoding

/// What a well-formed head says of its answer to a GET.
struct ResponseHead {
  std::size_t size = 0;  ///< bytes, interim answers included
  int status = 0;
  bool keep_alive = false;            ///< RFC 9112, section 9.3
  bool chunked = false;               ///< the body is in chunks; otherwise
  std::optional<std::size_t> length;  ///< its bytes; absent: until the connection is closed
};

/// Bytes that are no answer, whatever follows.
struct MalformedResponse {
  const char* error = "";  ///< half a sentence: "the answer ..."
};

/// Decides what the bytes received so far are, from a peer that is not trusted. A pure function,
/// like parse_request_head(). Interim answers (RFC 9110, section 15.2) are skipped.
std::variant<IncompleteHead, ResponseHead, MalformedResponse> parse_response_head(
    std::string_view bytes);

/// Takes chunks apart (RFC 9112, section 7.1). Version 0.11 of cpp-httplib takes "-5" for a size,
/// and what is not CRLF for the end of a body; it fails at trailers.
class ChunkedBody {
 public:
  /// Moves data from the front of `bytes` to the end of `data`, and returns what is wrong, or
  /// nullptr. Leaves in `bytes` what needs more of them, or is behind the body.
  const char* decode(std::string& bytes, std::string& data);
  bool complete() const { return part_ == Part::kDone; }

 private:
  enum class Part { kSize, kData, kDataEnd, kTrailers, kDone };

  Part part_ = Part::kSize;
  std::size_t left_ = 0;      // of the chunk
  std::size_t trailers_ = 0;  // bytes
};

}  // namespace common::http
