#include "common/http/response_head.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

namespace common::http {
namespace {

constexpr const char* kNotHttp = "is not HTTP/1";
constexpr std::size_t kMaxChunkLine = 4'096;

/// Whether `bytes` can become `start` and more. What cannot is told at once, not when a line or the
/// time is over.
bool begins_as(std::string_view bytes, std::string_view start) {
  return bytes.substr(0, start.size()) == start.substr(0, bytes.size());
}

/// Takes a line off the front of `bytes`, without its CRLF. Nothing where it is not complete.
/// `error` is set where it does not end in CRLF.
std::optional<std::string_view> take_line(std::string_view& bytes, const char*& error) {
  const auto end = bytes.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const auto line = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  if (!ends_in_crlf(line)) error = "has a line that does not end in CRLF";
  return line.substr(0, line.size() - 1);
}

struct ResponseParser {
  ResponseHead head;
  bool http_1_0 = false;
  Persistence persistence;

  /// RFC 9112, section 4: HTTP-version SP status-code SP [reason-phrase]; the last SP is often left
  /// out.
  const char* parse_status_line(std::string_view line) {
    const bool shaped = line.size() >= 12 && line.starts_with("HTTP/1.") && is_digit(line[7]) &&
                        line[8] == ' ' && is_digit(line[9]) && is_digit(line[10]) &&
                        is_digit(line[11]) && (line.size() == 12 || line[12] == ' ');
    if (!shaped || line[9] == '0') return kNotHttp;
    http_1_0 = line[7] == '0';
    head.status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    return nullptr;
  }

  /// RFC 9112, section 6.3: what decides where the body ends must not be open to two readings.
  const char* parse_field_line(std::string_view line) {
    Field field;
    if (parse_field(line, field) != nullptr) return "has a malformed header line";
    const auto& [name, value] = field;
    if (equal_ignoring_case(name, "content-length")) {
      std::size_t length = 0;
      const char* const end = value.data() + value.size();
      const auto [stop, error] = std::from_chars(value.data(), end, length);
      if (error != std::errc() || stop != end) return "has a malformed Content-Length";
      if (head.length && *head.length != length) return "has two different Content-Length";
      head.length = length;
    } else if (equal_ignoring_case(name, "transfer-encoding")) {
      if (head.chunked || !equal_ignoring_case(value, "chunked")) {
        return "has a Transfer-Encoding other than chunked";
      }
      head.chunked = true;
    } else if (equal_ignoring_case(name, "connection")) {
      persistence.take(value);
    }
    return nullptr;
  }

  const char* end_head() {
    // RFC 9112, section 6.1: a sign of request smuggling.
    if (head.status == 200 && head.chunked && head.length)
      return "has both Transfer-Encoding and Content-Length";
    // RFC 9112, section 6.1: after a Transfer-Encoding in 1.0 the connection must not go on.
    head.keep_alive = persistence.keeps(http_1_0) && !(http_1_0 && head.chunked);
    return nullptr;
  }
};

}  // namespace

std::variant<IncompleteHead, ResponseHead, MalformedResponse> parse_response_head(
    std::string_view bytes) {
  ResponseParser parser;
  auto rest = bytes;
  bool at_status_line = true;
  for (;;) {
    if (at_status_line && !begins_as(rest, "HTTP/1.")) return MalformedResponse{kNotHttp};
    const char* error = nullptr;
    const auto line = take_line(rest, error);
    if (bytes.size() - (line ? rest.size() : 0) > kMaxResponseHead) {
      return MalformedResponse{"has a head larger than 16 KiB"};
    }
    if (!line) return IncompleteHead{};
    if (error == nullptr) {
      error = at_status_line  ? parser.parse_status_line(*line)
              : line->empty() ? parser.end_head()
                              : parser.parse_field_line(*line);
    }
    if (error != nullptr) return MalformedResponse{error};
    if (std::exchange(at_status_line, false) || !line->empty()) continue;
    // RFC 9110, section 15.2.2: behind 101 it is not HTTP any more.
    if (parser.head.status >= 200 || parser.head.status == 101) {
      parser.head.size = bytes.size() - rest.size();
      return parser.head;
    }
    parser = {};
    at_status_line = true;
  }
}

const char* ChunkedBody::decode(std::string& bytes, std::string& data) {
  constexpr const char* kBadChunk = "has a malformed chunk";
  std::string_view rest = bytes;
  const char* error = nullptr;
  const auto step = [&] {
    if (part_ == Part::kDone) return false;
    if (part_ == Part::kData) {
      const auto piece = rest.substr(0, left_);
      data += piece;
      rest.remove_prefix(piece.size());
      left_ -= piece.size();
      if (left_ == 0) part_ = Part::kDataEnd;
      return left_ == 0;
    }
    if (part_ == Part::kDataEnd && !begins_as(rest, "\r\n")) error = kBadChunk;
    const auto unread = rest.size();
    const auto line = take_line(rest, error);
    if (unread - (line ? rest.size() : 0) > kMaxChunkLine) error = "has an endless chunk line";
    if (!line || error != nullptr) return false;
    switch (part_) {
      case Part::kSize: {
        const char* const begin = line->data();
        const auto [stop, failed] = std::from_chars(begin, begin + line->size(), left_, 16);
        const auto extension = trim(line->substr(static_cast<std::size_t>(stop - begin)));
        if (failed != std::errc() || (!extension.empty() && extension.front() != ';') ||
            left_ > kMaxResponseBody) {
          error = failed == std::errc() && left_ > kMaxResponseBody ? "is larger than 64 KiB"
                                                                    : kBadChunk;
        }
        part_ = left_ == 0 ? Part::kTrailers : Part::kData;
        break;
      }
      case Part::kDataEnd: part_ = Part::kSize; break;
      case Part::kTrailers: {
        Field field;
        trailers_ += unread - rest.size();
        if (line->empty()) {
          part_ = Part::kDone;
        } else if (parse_field(*line, field) != nullptr) {
          error = "has a malformed trailer";
        } else if (trailers_ > kMaxResponseHead) {
          error = "has endless trailers";
        }
        break;
      }
      case Part::kData:
      case Part::kDone: break;
    }
    return true;
  };
  while (error == nullptr && step()) {
  }
  bytes.erase(0, bytes.size() - rest.size());
  return error;
}

}  // namespace common::http
