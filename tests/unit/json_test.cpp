#include "common/json.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>

namespace common {
namespace {

using namespace std::string_literals;

std::string bytes(std::initializer_list<unsigned> values) {
  std::string out;
  for (const unsigned value : values) out += static_cast<char>(value);
  return out;
}

// An oracle that knows nothing of ranges of bytes: decodes generously, as RFC 2279 would, then
// looks whether encoding the number the one right way gives the same bytes back.
bool is_utf8_by_round_trip(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(text[i]) & 0xFF; };
    const auto lead = byte(at);
    std::size_t ones = 0;
    while (ones < 8 && (lead & (0x80u >> ones)) != 0) ++ones;
    if (ones == 1 || ones > 4) return false;
    const std::size_t length = ones == 0 ? 1 : ones;
    if (at + length > text.size()) return false;
    std::uint32_t code = ones == 0 ? lead : lead & (0x7Fu >> ones);
    for (std::size_t i = 1; i < length; ++i) {
      if (byte(at + i) / 0x40 != 2) return false;
      code = code * 0x40 + byte(at + i) % 0x40;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    const std::size_t shortest = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    if (shortest != length) return false;
    at += length;
  }
  return true;
}

TEST(IsUtf8, AgreesWithTheOracleOnAllStringsOfUpToThreeBytes) {
  for (unsigned a = 0; a < 256; ++a) {
    ASSERT_EQ(is_utf8(bytes({a})), is_utf8_by_round_trip(bytes({a}))) << a;
    for (unsigned b = 0; b < 256; ++b) {
      const auto two = bytes({a, b});
      ASSERT_EQ(is_utf8(two), is_utf8_by_round_trip(two)) << a << ' ' << b;
      // A third byte matters only behind a lead byte: two hundred of 256 need not be tried.
      for (unsigned c = 0; a >= 0xC0 && c < 256; c += c == 0 ? 0x3F : c >= 0xC0 ? 0x3F : 1) {
        const auto three = bytes({a, b, c});
        ASSERT_EQ(is_utf8(three), is_utf8_by_round_trip(three)) << a << ' ' << b << ' ' << c;
      }
    }
  }
}

TEST(IsUtf8, AgreesWithTheOracleOnStringsOfFourBytes) {
  for (unsigned a = 0xE8; a < 256; ++a) {
    for (unsigned b = 0x70; b < 0xD0; ++b) {
      for (const unsigned c : {0x00u, 0x7Fu, 0x80u, 0xBFu, 0xC0u, 0xFFu}) {
        for (const unsigned d : {0x00u, 0x7Fu, 0x80u, 0xBFu, 0xC0u, 0xFFu}) {
          const auto four = bytes({a, b, c, d});
          ASSERT_EQ(is_utf8(four), is_utf8_by_round_trip(four)) << a << ' ' << b << ' ' << c;
        }
      }
    }
  }
}

TEST(IsUtf8, AgreesWithTheOracleOnRandomStrings) {
  std::mt19937 random(20261123);
  const std::string common = bytes({0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                    0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF});
  for (int round = 0; round < 200'000; ++round) {
    std::string text;
    for (auto left = random() % 8; left > 0; --left) text += common[random() % common.size()];
    ASSERT_EQ(is_utf8(text), is_utf8_by_round_trip(text)) << testing::PrintToString(text);
  }
}

TEST(IsUtf8, KnowsTheFamousCases) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("\0"s));
  EXPECT_TRUE(is_utf8("\u00e4\u20ac\U0001F600\uFFFD\uFFFF\U0010FFFF"));
  EXPECT_FALSE(is_utf8("\xC0\x80")) << "Java's NUL";
  EXPECT_FALSE(is_utf8("\xED\xA0\x80")) << "a surrogate";
  EXPECT_FALSE(is_utf8("\xF4\x90\x80\x80")) << "above U+10FFFF";
  EXPECT_FALSE(is_utf8("\xE2\x82")) << "cut";
  EXPECT_FALSE(is_utf8("\xFF"));
}

TEST(ToBody, IsCompactSortedRawAndOneLine) {
  EXPECT_EQ(to_body({{"b", 1}, {"a", "\u00e4 \" \\ / \x7f"}}),
            "{\"a\":\"\u00e4 \\\" \\\\ / \x7f\",\"b\":1}\n");
  EXPECT_EQ(to_body({{"a", "\n\0"s}}), "{\"a\":\"\\n\\u0000\"}\n");
}

TEST(ReadMsg, TakesTheFirst) {
  httplib::Request request;
  httplib::Response response;
  std::string msg = "left over";
  EXPECT_TRUE(read_msg(request, response, msg));
  EXPECT_EQ(msg, "");
  request.params.emplace("msg", "hello");
  EXPECT_TRUE(read_msg(request, response, msg));
  EXPECT_EQ(msg, "hello");
}

TEST(ReadMsg, AnswersWhatIsNotUtf8) {
  httplib::Request request;
  request.params.emplace("msg", "\xFF");
  httplib::Response response;
  std::string msg;
  EXPECT_FALSE(read_msg(request, response, msg));
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.body, "{\"error\":\"msg is not valid UTF-8\"}\n");
}

}  // namespace
}  // namespace common
