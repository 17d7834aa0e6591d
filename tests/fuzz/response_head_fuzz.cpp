// Any bytes from an upstream: parse_response_head() and ChunkedBody neither crash nor read behind
// their end, what they accept is within the limits, and it matters not how the bytes are cut.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <variant>

#include "common/http/response_head.hpp"
#include "require.hpp"

namespace {

using namespace common::http;

struct Decoded {
  std::string data;
  std::string rest;
  bool malformed = false;
  bool complete = false;
};

Decoded decode(std::string_view bytes, std::minstd_rand& random, std::size_t step) {
  Decoded out;
  ChunkedBody chunks;
  while (!bytes.empty() && !out.malformed) {
    const auto count = std::min(bytes.size(), 1 + random() % step);
    out.rest += bytes.substr(0, count);
    bytes.remove_prefix(count);
    out.malformed = chunks.decode(out.rest, out.data) != nullptr;
  }
  out.complete = chunks.complete();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto whole = parse_response_head(bytes);
  const auto* head = std::get_if<ResponseHead>(&whole);
  if (head != nullptr) {
    REQUIRE(head->status >= 101 && head->status <= 999);
    REQUIRE(head->size <= std::min(size, kMaxResponseHead));
    REQUIRE(bytes.substr(0, head->size).ends_with("\r\n\r\n"));
    REQUIRE(head->status != 200 || !head->chunked || !head->length);
  }

  // Not until the verdict may a shorter piece say anything else.
  std::minstd_rand random(static_cast<unsigned>(size));
  const std::size_t step = 1 + size / 64;
  for (std::size_t end = random() % step; end < size; end += 1 + random() % step) {
    const auto copy = std::make_unique<char[]>(end);
    std::copy_n(data, end, copy.get());
    const auto early = parse_response_head({copy.get(), end});
    if (std::holds_alternative<IncompleteHead>(early)) continue;
    REQUIRE(early.index() == whole.index());
    if (head != nullptr) REQUIRE(std::get<ResponseHead>(early).size == head->size);
    break;
  }

  const auto body = head != nullptr ? bytes.substr(head->size) : bytes;
  const auto at_once = decode(body, random, body.size() + 1);
  const auto in_pieces = decode(body, random, step);
  REQUIRE(at_once.malformed == in_pieces.malformed);
  if (!at_once.malformed) {
    REQUIRE(at_once.complete == in_pieces.complete && at_once.data == in_pieces.data);
    REQUIRE(at_once.rest == in_pieces.rest);
  }
  return 0;
}
