#include "common/http/response_message.hpp"

#include <algorithm>
#include <charconv>

namespace common::http {
namespace {

// Chunked framing may be larger than what it carries. This bounds it, head included.
constexpr std::size_t kMaxReceived = 8 * kMaxResponseBody;

constexpr const char* kNotHttp = "is not HTTP/1";
constexpr const char* kLongHead = "has a head larger than 16 KiB";
constexpr const char* kTooLarge = "is larger than 64 KiB";
constexpr const char* kBadChunk = "has a malformed chunk";

// Whether `bytes` can become `start` and more. What cannot is told at once, not when a line or the
// time is over.
bool begins_as(std::string_view bytes, std::string_view start) {
  return bytes.substr(0, start.size()) == start.substr(0, bytes.size());
}

}  // namespace

ResponseParser::Verdict ResponseParser::parse(std::string_view bytes, bool ended) {
  received_ += bytes.size();
  unread_ += bytes;
  std::string_view rest = unread_;
  while (step(rest)) {
  }
  if (ended && part_ == Part::kUntilEnd) part_ = Part::kDone;
  if (!error_ && received_ > kMaxReceived) error_ = kTooLarge;
  if (error_) return MalformedResponse{error_};
  if (part_ == Part::kDone) {
    // Bytes behind the answer belong to no request of ours: nobody may take them for the next one.
    // RFC 9112, section 6.1: after a Transfer-Encoding in 1.0 the connection must not go on.
    message_.reusable = message_.status == 200 && !ended && rest.empty() &&
                        persistence_.keeps(http_1_0_) && !(http_1_0_ && chunked_);
    return std::move(message_);
  }
  unread_.erase(0, unread_.size() - rest.size());
  return IncompleteResponse{};
}

/// Takes the next line, or the next bytes of the body, off the front. Returns whether there may be
/// more to take.
bool ResponseParser::step(std::string_view& bytes) {
  std::string_view line;
  switch (part_) {
    case Part::kStatusLine:
      if (!begins_as(bytes, "HTTP/1.")) return fail(kNotHttp);
      return take_line(bytes, line, kLongHead) && parse_status_line(line);
    case Part::kFields:
      if (!take_line(bytes, line, kLongHead)) return false;
      return line.empty() ? end_head() : parse_head_field(line);
    case Part::kSized:
      take_bytes(bytes);
      if (left_ == 0) part_ = Part::kDone;
      return false;
    case Part::kUntilEnd:
      left_ = bytes.size();
      if (left_ > kMaxResponseBody - message_.body.size()) return fail(kTooLarge);
      take_bytes(bytes);
      return false;
    case Part::kChunkSize:
      return take_line(bytes, line, "has an endless chunk line") && begin_chunk(line);
    case Part::kChunk:
      take_bytes(bytes);
      if (left_ > 0) return false;
      if (!begins_as(bytes, "\r\n")) return fail(kBadChunk);
      if (bytes.size() < 2) return false;
      bytes.remove_prefix(2);
      part_ = Part::kChunkSize;
      return true;
    case Part::kTrailers: {
      if (!take_line(bytes, line, "has endless trailers")) return false;
      if (line.empty()) {
        part_ = Part::kDone;
        return false;
      }
      Field field;
      const char* error = parse_field(line, field);
      return error ? fail(error) : true;
    }
    case Part::kDone: break;
  }
  return false;
}

/// Takes one line, and CRLF, off the front. Returns whether there was one.
bool ResponseParser::take_line(std::string_view& bytes, std::string_view& line,
                               const char* too_long) {
  const auto end = bytes.find('\n');
  const auto size = end == std::string_view::npos ? bytes.size() : end + 1;
  if (lines_ + size > kMaxResponseHead) return fail(too_long);
  if (end == std::string_view::npos) return false;
  line = bytes.substr(0, end);
  bytes.remove_prefix(size);
  lines_ += size;
  if (!ends_in_crlf(line)) return fail("has a line that does not end in CRLF");
  line.remove_suffix(1);
  return true;
}

void ResponseParser::take_bytes(std::string_view& bytes) {
  const auto count = std::min(left_, bytes.size());
  message_.body += bytes.substr(0, count);
  bytes.remove_prefix(count);
  left_ -= count;
}

bool ResponseParser::fail(const char* error) {
  error_ = error;
  return false;
}

// RFC 9112, section 4: HTTP-version SP status-code SP [reason-phrase]; the last SP is often left
// out.
bool ResponseParser::parse_status_line(std::string_view line) {
  const bool shaped = line.size() >= 12 && line.starts_with("HTTP/1.") && is_digit(line[7]) &&
                      line[8] == ' ' && is_digit(line[9]) && is_digit(line[10]) &&
                      is_digit(line[11]) && (line.size() == 12 || line[12] == ' ');
  if (!shaped || line[9] == '0') return fail(kNotHttp);
  http_1_0_ = line[7] == '0';
  message_.status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  part_ = Part::kFields;
  return true;
}

// RFC 9112, section 6.3: what decides where the body ends must not be open to two readings.
bool ResponseParser::parse_head_field(std::string_view line) {
  Field field;
  if (const char* error = parse_field(line, field)) return fail(error);
  const auto& [name, value] = field;
  if (equal_ignoring_case(name, "content-length")) {
    std::size_t length = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, length);
    if (error != std::errc() || stop != end) return fail("has a malformed Content-Length");
    if (length_ && *length_ != length) return fail("has two different Content-Length");
    length_ = length;
  } else if (equal_ignoring_case(name, "transfer-encoding")) {
    if (chunked_ || !equal_ignoring_case(value, "chunked")) {
      return fail("has a Transfer-Encoding other than chunked");
    }
    chunked_ = true;
  } else if (equal_ignoring_case(name, "connection")) {
    persistence_.take(value);
  }
  return true;
}

bool ResponseParser::end_head() {
  // RFC 9110, section 15.2: interim answers may come before the answer; 101 is the last of HTTP.
  if (message_.status < 200 && message_.status != 101) {
    part_ = Part::kStatusLine;
    persistence_ = {};
    chunked_ = false;
    length_.reset();
    return true;
  }
  if (message_.status != 200) {
    part_ = Part::kDone;
    return false;
  }
  if (chunked_ && length_) return fail("has both Transfer-Encoding and Content-Length");
  if (length_.value_or(0) > kMaxResponseBody) return fail(kTooLarge);
  part_ = chunked_ ? Part::kChunkSize : length_ ? Part::kSized : Part::kUntilEnd;
  left_ = length_.value_or(0);
  lines_ = 0;
  return true;
}

// RFC 9112, section 7.1.
bool ResponseParser::begin_chunk(std::string_view line) {
  const char* begin = line.data();
  const auto [stop, error] = std::from_chars(begin, begin + line.size(), left_, 16);
  const auto rest = trim(line.substr(static_cast<std::size_t>(stop - begin)));
  if (error != std::errc() || (!rest.empty() && !rest.starts_with(';'))) return fail(kBadChunk);
  if (left_ > kMaxResponseBody - message_.body.size()) return fail(kTooLarge);
  part_ = left_ == 0 ? Part::kTrailers : Part::kChunk;
  lines_ = 0;
  return true;
}

}  // namespace common::http
