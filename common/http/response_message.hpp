#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "common/http/fields.hpp"

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

/// Bytes that are no answer, whatever follows.
struct MalformedResponse {
  const char* error = "";  ///< half a sentence: "it ..."
};

/// Reads one answer, from a peer that is not trusted (RFC 9112, sections 4, 6.3 and 7.1). Interim
/// answers (1xx) are skipped. How the peer cuts its bytes into pieces has no influence on the
/// verdict, and little on the work: only a line that has not ended is searched again.
class ResponseParser {
 public:
  using Verdict = std::variant<IncompleteResponse, ResponseMessage, MalformedResponse>;

  /// `bytes`: those that have arrived since the last call. `ended`: the peer has closed its side
  /// behind them. Not to be called again after another verdict than IncompleteResponse.
  Verdict parse(std::string_view bytes, bool ended);

  /// Whether there has been a byte of the answer.
  bool begun() const { return received_ > 0; }

 private:
  enum class Part { kStatusLine, kFields, kSized, kUntilEnd, kChunkSize, kChunk, kTrailers, kDone };

  bool step(std::string_view& bytes);
  bool take_line(std::string_view& bytes, std::string_view& line, const char* too_long);
  void take_bytes(std::string_view& bytes);
  bool fail(const char* error);
  bool parse_status_line(std::string_view line);
  bool parse_head_field(std::string_view line);
  bool end_head();
  bool begin_chunk(std::string_view line);

  Part part_ = Part::kStatusLine;
  const char* error_ = nullptr;
  std::string unread_;  // of a line that is not complete
  std::size_t received_ = 0;
  std::size_t lines_ = 0;  // bytes in those of the head, of this chunk, or of the trailers
  std::size_t left_ = 0;   // of a sized body, or of a chunk and its CRLF

  ResponseMessage message_;
  bool http_1_0_ = false;
  Persistence persistence_;
  bool chunked_ = false;
  std::optional<std::size_t> length_;
};

}  // namespace common::http
