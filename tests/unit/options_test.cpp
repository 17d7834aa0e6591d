#include "common/options.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

// Flags, variables and what is refused: integration/configuration_test.cpp.

namespace common {
namespace {

using namespace std::chrono_literals;

TEST(Duration, IsReadInMillisecondsAndSeconds) {
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("1s"), 1000ms);
  EXPECT_EQ(parse_duration("1.5s"), 1500ms);
  EXPECT_EQ(parse_duration("0ms"), 0ms);
  EXPECT_EQ(parse_duration("1.005s"), 1005ms);
  EXPECT_EQ(parse_duration("86400s"), 86'400'000ms);
}

TEST(Duration, NeedsANumberAndAUnitAndNothingElse) {
  for (const std::string text : {"",           "s",          "ms",    "1",
                                 "1.5",        "1m",         "1h",    "1us",
                                 "1S",         "1 s",        " 1s",   "1s ",
                                 "1s1s",       "1sms",       "-1s",   "-0.001s",
                                 "+1s",        "1e3s",       "0x1s",  "1,5s",
                                 "1..5s",      "infs",       "nans",  "infinitys",
                                 "86400.001s", "86400001ms", "1e99s", "99999999999999999999s",
                                 "\0s"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  }
}

TEST(Duration, IsWrittenAsItIsRead) {
  EXPECT_EQ(to_text(250ms), "250ms");
  EXPECT_EQ(to_text(1500ms), "1500ms");
  for (const int count : {0, 1, 999, 1000, 1001, 60'000, 86'400'000}) {
    EXPECT_EQ(parse_duration(to_text(Duration(count))), Duration(count));
  }
}

}  // namespace
}  // namespace common
