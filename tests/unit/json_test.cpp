#include "common/json.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace common {
namespace {

using namespace std::string_literals;

std::string bytes(std::initializer_list<unsigned> values) {
  std::string out;
  for (const unsigned value : values) out += static_cast<char>(value);
  return out;
}

// The first and the last sequence of each length, and those just outside.
TEST(IsUtf8, KnowsTheLimits) {
  for (const auto& text :
       {bytes({0x7F}), bytes({0xC2, 0x80}), bytes({0xDF, 0xBF}), bytes({0xE0, 0xA0, 0x80}),
        bytes({0xED, 0x9F, 0xBF}), bytes({0xEE, 0x80, 0x80}), bytes({0xEF, 0xBF, 0xBF}),
        bytes({0xF0, 0x90, 0x80, 0x80}), bytes({0xF4, 0x8F, 0xBF, 0xBF})}) {
    EXPECT_TRUE(is_utf8(text)) << testing::PrintToString(text);
    EXPECT_FALSE(is_utf8(text.substr(0, text.size() - 1) + "\xC0")) << "no continuation";
    if (text.size() > 1) {
      EXPECT_FALSE(is_utf8(text.substr(0, text.size() - 1))) << "cut";
    }
  }
  for (const auto& text :
       {bytes({0x80}), bytes({0xBF}), bytes({0xC0, 0x80}), bytes({0xC1, 0xBF}),
        bytes({0xE0, 0x9F, 0xBF}), bytes({0xED, 0xA0, 0x80}), bytes({0xED, 0xBF, 0xBF}),
        bytes({0xF0, 0x8F, 0xBF, 0xBF}), bytes({0xF4, 0x90, 0x80, 0x80}),
        bytes({0xF5, 0x80, 0x80, 0x80}), bytes({0xFE}), bytes({0xFF})}) {
    EXPECT_FALSE(is_utf8(text)) << testing::PrintToString(text);
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

TEST(AnswerJson, IsCompactSortedRawUtf8AndOneLine) {
  httplib::Response response;
  answer_json(response, 503, {{"b", {{"d", 1}}}, {"a", "\u00e4 \" \\ / \x7f\n\0"s}});
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.body, "{\"a\":\"\u00e4 \\\" \\\\ / \x7f\\n\\u0000\",\"b\":{\"d\":1}}\n");
  EXPECT_EQ(response.get_header_value("Content-Type"), "application/json");
}

TEST(ReadMsg, TakesTheFirst) {
  httplib::Request request;
  httplib::Response response;
  EXPECT_EQ(read_msg(request, response), "");
  request.params.emplace("msg", "hello");
  request.params.emplace("msg", "second");
  EXPECT_EQ(read_msg(request, response), "hello");
}

TEST(ReadMsg, AnswersWhatIsNotUtf8) {
  httplib::Request request;
  request.params.emplace("msg", "\xFF");
  httplib::Response response;
  EXPECT_EQ(read_msg(request, response), std::nullopt);
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.body, "{\"error\":\"msg is not valid UTF-8\"}\n");
}

}  // namespace
}  // namespace common
