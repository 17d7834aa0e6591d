#include "common/http/response_message.hpp"

#include <charconv>
#include <optional>

#include "common/http/fields.hpp"

namespace common::http {
namespace {

using Result =
    std::variant<IncompleteResponse, ResponseMessage, TruncatedResponse, MalformedResponse>;

struct Head {
  int status = 0;
  bool http_1_0 = false;
  bool close = false;
  bool keep_alive = false;
  bool chunked = false;
  std::optional<std::size_t> length;
};

/// Takes one line and its CRLF off the front of `bytes`; nothing if there is no complete line yet.
std::optional<std::string_view> take_line(std::string_view& bytes, const char*& error) {
  const auto end = bytes.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  auto line = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  if (!line.ends_with('\r') || line.find('\r') != line.size() - 1) {
    error = "has a line that does not end in CRLF";
    return std::nullopt;
  }
  line.remove_suffix(1);
  return line;
}

// RFC 9112, section 4: HTTP-version SP status-code SP [reason-phrase]; the last SP is often left
// out.
const char* parse_status_line(std::string_view line, Head& head) {
  const bool shaped = line.size() >= 12 && line.starts_with("HTTP/1.") && is_digit(line[7]) &&
                      line[8] == ' ' && is_digit(line[9]) && is_digit(line[10]) &&
                      is_digit(line[11]) && (line.size() == 12 || line[12] == ' ');
  if (!shaped || line[9] == '0') return "is not HTTP/1";
  head.http_1_0 = line[7] == '0';
  head.status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  return nullptr;
}

// RFC 9112, section 6.3: what decides where the body ends must not be open to two readings.
const char* take_field(const Field& field, Head& head) {
  if (equal_ignoring_case(field.name, "content-length")) {
    std::size_t length = 0;
    const char* end = field.value.data() + field.value.size();
    const auto [stop, error] = std::from_chars(field.value.data(), end, length);
    if (error != std::errc() || stop != end) return "has a malformed Content-Length";
    if (head.length && *head.length != length) return "has two different Content-Length";
    head.length = length;
  } else if (equal_ignoring_case(field.name, "transfer-encoding")) {
    if (head.chunked || !equal_ignoring_case(field.value, "chunked")) {
      return "has a Transfer-Encoding other than chunked";
    }
    head.chunked = true;
  } else if (equal_ignoring_case(field.name, "connection")) {
    for_each_member(field.value, [&](std::string_view option) {
      head.close = head.close || equal_ignoring_case(option, "close");
      head.keep_alive = head.keep_alive || equal_ignoring_case(option, "keep-alive");
    });
  }
  return nullptr;
}

// RFC 9112, section 7.1. Returns true when the last chunk and its trailers are there.
bool decode_chunked(std::string_view& bytes, std::string& body, const char*& error) {
  for (;;) {
    const auto line = take_line(bytes, error);
    if (!line) {
      if (bytes.size() > kMaxResponseHead) error = "has an endless chunk line";
      return false;
    }
    std::size_t size = 0;
    const char* begin = line->data();
    const auto [stop, bad] = std::from_chars(begin, begin + line->size(), size, 16);
    const auto rest = trim(line->substr(static_cast<std::size_t>(stop - begin)));
    if (bad != std::errc() || (!rest.empty() && !rest.starts_with(';'))) {
      error = "has a malformed chunk";
      return false;
    }
    if (size == 0) break;
    if (size > kMaxResponseBody - body.size()) {
      error = "is larger than 64 KiB";
      return false;
    }
    if (bytes.size() < size + 2) {
      // Data that cannot be followed by CRLF any more is told from data still on its way.
      if (bytes.size() > size && bytes[size] != '\r') error = "has a malformed chunk";
      return false;
    }
    if (bytes.substr(size, 2) != "\r\n") {
      error = "has a malformed chunk";
      return false;
    }
    body += bytes.substr(0, size);
    bytes.remove_prefix(size + 2);
  }
  for (const std::size_t limit = bytes.size();;) {
    const auto trailer = take_line(bytes, error);
    if (limit - (trailer ? bytes.size() : 0) > kMaxResponseHead) error = "has endless trailers";
    if (!trailer || error) return false;
    if (trailer->empty()) return true;
    Field field;
    error = parse_field(*trailer, field);
    if (error) return false;
  }
}

}  // namespace

Result parse_response(std::string_view bytes, bool ended) {
  const auto missing = [&]() -> Result {
    if (ended) return TruncatedResponse{};
    return IncompleteResponse{};
  };
  const std::size_t total = bytes.size();
  // Something that cannot become "HTTP/1." is told at once, not when the line or the time is over.
  constexpr std::string_view kStart = "HTTP/1.";
  if (bytes.substr(0, kStart.size()) != kStart.substr(0, bytes.size())) {
    return MalformedResponse{"is not HTTP/1"};
  }

  Head head;
  const char* error = nullptr;
  do {
    head = Head{};
    bool first = true;
    for (;;) {
      const auto line = take_line(bytes, error);
      if (error) return MalformedResponse{error};
      if (total - bytes.size() > kMaxResponseHead || (!line && total > kMaxResponseHead)) {
        return MalformedResponse{"has a head larger than 16 KiB"};
      }
      if (!line) return missing();
      if (!first && line->empty()) break;
      Field field;
      error = first ? parse_status_line(*line, head) : parse_field(*line, field);
      if (!error && !first) error = take_field(field, head);
      if (error) return MalformedResponse{error};
      first = false;
    }
    // RFC 9110, section 15.2: interim answers may come before the answer; 101 is the last of HTTP.
  } while (head.status < 200 && head.status != 101);

  ResponseMessage message;
  message.status = head.status;
  if (head.status != 200) return message;
  if (head.chunked && head.length) {
    return MalformedResponse{"has both Transfer-Encoding and Content-Length"};
  }
  if (head.length.value_or(0) > kMaxResponseBody) return MalformedResponse{"is larger than 64 KiB"};

  if (head.chunked) {
    const bool complete = decode_chunked(bytes, message.body, error);
    if (error) return MalformedResponse{error};
    if (!complete) return missing();
  } else if (head.length) {
    if (bytes.size() < *head.length) return missing();
    message.body = bytes.substr(0, *head.length);
    bytes.remove_prefix(*head.length);
  } else {
    if (bytes.size() > kMaxResponseBody) return MalformedResponse{"is larger than 64 KiB"};
    if (!ended) return IncompleteResponse{};
    message.body = bytes;
    bytes = {};
  }
  // Bytes behind the answer belong to no request of ours: nobody may take them for the next answer.
  // RFC 9112, section 6.1: after a Transfer-Encoding in 1.0 the connection must not go on.
  message.reusable = !ended && bytes.empty() && !head.close &&
                     (!head.http_1_0 || (head.keep_alive && !head.chunked));
  return message;
}

}  // namespace common::http
