// Any bytes from an upstream: ResponseParser neither crashes nor reads behind their end, what it
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
  const auto open = ResponseParser().parse(bytes, false);
  const auto ended = ResponseParser().parse(bytes, true);

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
  ResponseParser parser;
  for (std::size_t begin = 0, count = 0; begin < size; begin += count) {
    count = std::min(size - begin, 1 + random() % step);
    const auto copy = std::make_unique<char[]>(count);
    std::copy_n(data + begin, count, copy.get());
    const auto early = parser.parse({copy.get(), count}, false);
    if (std::holds_alternative<IncompleteResponse>(early)) continue;
    REQUIRE(early.index() == open.index());
    if (const auto* message = std::get_if<ResponseMessage>(&early)) {
      REQUIRE(std::get<ResponseMessage>(open).status == message->status);
      REQUIRE(std::get<ResponseMessage>(open).body == message->body);
    }
    return 0;
  }
  REQUIRE(std::holds_alternative<IncompleteResponse>(open));
  return 0;
}
