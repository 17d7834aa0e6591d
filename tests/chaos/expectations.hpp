#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <string>

#include "chaos/callers.hpp"
#include "chaos/chaos.hpp"

namespace tests::chaos {

// The line at the end of each test that says what it did.
inline void report(const std::string& text) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::cout << "chaos: " << test->test_suite_name() << "." << test->name() << ": " << text
            << " (CHAOS_SEED=" << chaos_seed() << ")" << std::endl;
}

inline void expect_no_violation(const Tally& tally) {
  EXPECT_EQ(tally.violations, 0U) << tally.violations_text();
}

// That no request was taken and then lost.
inline void expect_none_taken(const std::string& log, const Tally& tally) {
  EXPECT_THAT(logged(log, tally.repeated_ids), ::testing::IsEmpty());
}

// That one call, over a connection of its own, is answered right.
inline void expect_right_answer(std::uint16_t service_b, const std::string& what) {
  const auto result = get(service_b, "/call-echo?msg=one");
  EXPECT_EQ(result.status(), 200) << what << ": " << result.error
                                  << (result.response ? result.response->body : "");
}

}  // namespace tests::chaos
