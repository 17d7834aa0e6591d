// Any bytes from an upstream: parse_response() neither crashes nor reads behind their end, what it
// accepts is within the limits, and it matters not how the bytes are cut.

#include <algorithm>
#include <memory>
#include <random>
#include <string_view>
#include <variant>

#include "common/http/response_message.hpp"
#include "require.hpp"

namespace {

using namespace common::http;

void check_message(const ResponseMessage& message) {
  REQUIRE(message.status >= 101 && message.status <= 999);
  REQUIRE(message.body.size() <= kMaxResponseBody);
  REQUIRE(message.status == 200 || (message.body.empty() && !message.reusable));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto open = parse_response(bytes, false);
  const auto ended = parse_response(bytes, true);

  REQUIRE(!std::holds_alternative<TruncatedResponse>(open));
  REQUIRE(!std::holds_alternative<IncompleteResponse>(ended));
  if (const auto* message = std::get_if<ResponseMessage>(&ended)) {
    check_message(*message);
    REQUIRE(!message->reusable);
  }
  if (const auto* message = std::get_if<ResponseMessage>(&open)) {
    check_message(*message);
    REQUIRE(std::get<ResponseMessage>(ended).status == message->status);
    REQUIRE(std::get<ResponseMessage>(ended).body == message->body);
  }
  // What is refused is refused for ever, and a close mends nothing.
  REQUIRE(std::holds_alternative<MalformedResponse>(open) ==
          std::holds_alternative<MalformedResponse>(ended));

  std::minstd_rand random(static_cast<unsigned>(size));
  const std::size_t step = 1 + size / 64;
  for (std::size_t end = random() % step; end < size; end += 1 + random() % step) {
    const auto copy = std::make_unique<char[]>(end);
    std::copy_n(data, end, copy.get());
    const auto early = parse_response({copy.get(), end}, false);
    if (std::holds_alternative<IncompleteResponse>(early)) continue;
    REQUIRE(early.index() == open.index());
    if (const auto* message = std::get_if<ResponseMessage>(&early)) {
      REQUIRE(std::get<ResponseMessage>(open).status == message->status);
      REQUIRE(std::get<ResponseMessage>(open).body == message->body);
    }
    break;
  }
  return 0;
}
