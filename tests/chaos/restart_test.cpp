#include "chaos/callers.hpp"

namespace tests::chaos {
namespace {

class Restarts : public Chaos {};

TEST_F(Restarts, ServiceAKilledOverAndOver) {
  const int restarts = kSanitized ? 25 : 100;
  b_.start();
  auto before = footprint(b_.pid());
  a_.start();
  Callers callers({.port = b_.port(), .reasons = {"connection_refused", "connection_closed"}});
  for (int i = 0; i < restarts && !HasFailure(); ++i) {
    callers.wait_for_ok(1);
    pause(random_, 0, 20);
    a_.kill();
    if (random_() % 2 == 0) callers.wait_for_unavailable(1);
    a_.start();
    if (i == restarts / 5) before.rss_kib = footprint(b_.pid()).rss_kib;
  }
  callers.wait_for_ok(100);
  const auto tally = callers.stop();
  report(tally.summary());
  expect_no_violation(tally);
  EXPECT_GT(tally.count("503 connection_refused"), 0U);
  expect_nothing_left(before);
}

TEST_F(Restarts, ServiceACleanlyRestartedCostsNo503OfItsOwn) {
  const int restarts = kSanitized ? 10 : 50;
  b_.start();
  a_.start();
  // connection_closed: a connection that the kernel makes between Service A's last accept(2) and
  // the end of its socket is reset. That is a matter of microseconds, and of few calls.
  Callers callers({.port = b_.port(), .reasons = {"connection_refused", "connection_closed"}});
  for (int i = 0; i < restarts && !HasFailure(); ++i) {
    callers.wait_for_ok(20);
    pause(random_, 0, 10);
    a_.stop();
    // Every caller is refused at least once while nobody listens.
    if (random_() % 2 == 0) callers.wait_for_unavailable(16);
    a_.start();
  }
  const auto tally = callers.stop();
  report(tally.summary());
  expect_no_violation(tally);
  EXPECT_GT(tally.count("503 connection_refused"), 0U);
  EXPECT_LE(tally.count("503 connection_closed"), static_cast<std::size_t>(restarts) / 5);
}

// With a budget so small that many hangs fit into a short test.
TEST_F(Restarts, AndHangsOfBothAtRandom) {
  const int faults = kSanitized ? 15 : 50;
  b_.flags.emplace_back("--timeout=300ms");
  a_.start();
  b_.start();
  Callers callers({.port = b_.port(),
                   .reasons = {"connection_refused", "connection_closed", "timeout"},
                   .limit = milliseconds(350),
                   .stops = CallerOptions::Stops::kAndStarts});
  callers.wait_for_ok(100);
  for (int i = 0; i < faults && !HasFailure(); ++i) {
    const auto fault = random_() % 5;
    if (fault == 0) {
      a_.kill();
      pause(random_, 0, 50);
      a_.start();
    } else if (fault == 1) {
      a_.stop();
      a_.start();
    } else if (fault == 2) {
      a_.hang();
      pause(random_, 0, 600);
      a_.resume();
    } else {  // service-b stops, perhaps while its calls hang
      if (fault == 3) a_.hang();
      pause(random_, 0, 50);
      b_.stop();
      if (fault == 3) a_.resume();
      b_.start();
    }
    callers.wait_for_ok(16);
    pause(random_, 0, 20);
  }
  const auto tally = callers.stop();
  expect_right_answer();
  b_.stop();
  a_.stop();
  report(tally.summary());
  expect_no_violation(tally, b_.log());
}

}  // namespace
}  // namespace tests::chaos
