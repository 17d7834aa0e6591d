#include "common/http/trace.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

// W3C Trace Context, level 1: the sections are the standard's. A trace on its way through Service
// B: integration/tracing_test.cpp.

namespace common::http {
namespace {

const std::string kTraceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kParent = "00f067aa0ba902b7";

bool continues(const std::string& traceparent) {
  return continue_trace(traceparent, "").trace_id == kTraceId;
}
std::string traceparent(const std::string& version, const std::string& flags,
                        const std::string& rest = "") {
  return version + "-" + kTraceId + "-" + kParent + "-" + flags + rest;
}

// Section 3.2.2.
TEST(Trace, BeginsAnewWhereTraceparentIsInvalid) {
  const std::string valid = traceparent("00", "01");
  EXPECT_TRUE(continues(valid));
  for (std::size_t size = 0; size < valid.size(); ++size) {
    EXPECT_FALSE(continues(valid.substr(0, size))) << size;
  }
  for (std::size_t at = 0; at < valid.size(); ++at) {
    for (const char c : {'G', 'g', ' ', '\0', '_', '\x80', valid[at] == '-' ? 'a' : '-'}) {
      auto changed = valid;
      changed[at] = c;
      EXPECT_FALSE(continues(changed)) << changed;
    }
  }
  EXPECT_FALSE(continues(valid + "0"));
  EXPECT_FALSE(continues(valid + "-"));
  EXPECT_FALSE(continues(valid + "-01")) << "version 00 ends with the flags";
  EXPECT_FALSE(continues(" " + valid));
  EXPECT_FALSE(continues(traceparent("ff", "01"))) << "section 3.2.2.1";
  EXPECT_FALSE(continues("00-" + std::string(32, '0') + "-" + kParent + "-01"));
  EXPECT_FALSE(continues("00-" + kTraceId + "-" + std::string(16, '0') + "-01"));
  EXPECT_FALSE(continues("00-4BF92F3577B34DA6A3CE929D0E0E4736-" + kParent + "-01"));
  EXPECT_EQ(continue_trace("rubbish", "a=1").state, "");
}

// Section 3.2.4.
TEST(Trace, ReadsAFutureVersionAsFarAsItIsKnown) {
  EXPECT_TRUE(continues(traceparent("01", "01")));
  EXPECT_TRUE(continues(traceparent("cc", "01", "-what-the-future-holds")));
  EXPECT_FALSE(continues(traceparent("cc", "01", ".rest")));
  EXPECT_FALSE(continues(traceparent("0", "01")));
  EXPECT_EQ(continue_trace(traceparent("cc", "01"), "").traceparent().substr(0, 3), "00-");
}

// Section 3.2.2.5: only the bit "sampled" is defined.
TEST(Trace, SendsOnWhetherItIsSampledAndNoOtherFlag) {
  const std::string digits = "0123456789abcdef";
  for (std::size_t flags = 0; flags < 256; ++flags) {
    const std::string text{digits[flags / 16], digits[flags % 16]};
    EXPECT_EQ(continue_trace(traceparent("00", text), "").flags, flags % 2 == 1 ? "01" : "00")
        << text;
  }
}

// Section 3.3.1.
TEST(Trace, DropsATracestateThatCannotBeSentOn) {
  const auto state = [](const std::string& text) {
    return continue_trace(traceparent("00", "01"), text).state;
  };
  const std::string longest = "a=" + std::string(510, 'x');
  EXPECT_EQ(state(longest), longest);
  EXPECT_EQ(state(longest + "x"), "");
  EXPECT_EQ(state("a=1\r\nX: 1"), "");
  EXPECT_EQ(state(std::string("a=\0", 3)), "");
  EXPECT_EQ(state("a=\xc3\xa4"), "");
  EXPECT_EQ(state("a=1,\tb=2"), "a=1,\tb=2");
}

TEST(RandomHex, IsNotTheSameTwiceAndNeverAllZero) {
  std::set<std::string> seen;
  for (int i = 0; i < 10'000; ++i) {
    const auto id = random_hex(16);
    ASSERT_EQ(id.size(), 16u);
    ASSERT_TRUE(seen.insert(id).second);
    ASSERT_NE(random_hex(1), "0");
  }
}

}  // namespace
}  // namespace common::http
