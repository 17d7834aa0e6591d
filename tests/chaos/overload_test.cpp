#include "chaos/callers.hpp"

namespace tests::chaos {
namespace {

class Overload : public Chaos {};

TEST_F(Overload, HealthStaysQuickAndMostCallersHearAtOnceWhileServiceAHangs) {
  a_.start();
  b_.start();
  const auto before = footprint(b_.pid());
  expect_right_answer();

  a_.hang();
  Callers probe({.port = b_.port(), .path = "/health", .count = 1, .pause = milliseconds(5)});
  // 300 callers that hardly pause keep two cores busy by themselves: what would be measured is
  // them.
  Callers callers({.port = b_.port(),
                   .count = 300,
                   .reasons = {"timeout", "overloaded"},
                   .limit = milliseconds(1'250),  // they share the processors with service-b
                   .pause = milliseconds(200)});
  callers.wait_for_unavailable(kSanitized ? 1'000 : 4'000);
  ASSERT_TRUE(eventually([&] { return callers.so_far().count("503 timeout") > 0; }));
  EXPECT_EQ(footprint(b_.pid()).threads, before.threads);
  const auto hung = callers.so_far();
  const auto health = probe.stop();
  report("/health " + health.summary() + " | calls " + hung.summary());
  expect_no_violation(health);
  // Far less than the calls that hang take, also where other programs keep the processors busy.
  const auto quick = milliseconds(300) + kSlack;
  EXPECT_LT(milliseconds(percentile(health.durations, 0.9)), quick);
  EXPECT_LT(milliseconds(percentile(hung.durations, 0.9)), quick);
  EXPECT_LT(milliseconds(percentile(health.durations, 0.99)), milliseconds(900) + kSlack);
  EXPECT_EQ(hung.count("200"), 0U);
  EXPECT_GT(hung.count("503 overloaded"), 9 * hung.count("503 timeout"));

  expect_no_violation(callers.stop());
  a_.resume();
  expect_right_answer();
  expect_nothing_left(before);
}

TEST_F(Overload, CallersAreServedAgainWhileTheyGoOnCalling) {
  a_.start();
  b_.start();
  Callers callers({.port = b_.port(),
                   .count = 100,
                   .reasons = {"timeout", "overloaded"},
                   .pause = milliseconds(20)});
  callers.wait_for_ok(500);
  for (int i = 0; i < 3; ++i) {
    a_.hang();
    callers.wait_for_unavailable(500);
    a_.resume();
    callers.wait_for_ok(500);
  }
  const auto tally = callers.stop();
  report(tally.summary());
  expect_no_violation(tally);
}

}  // namespace
}  // namespace tests::chaos
