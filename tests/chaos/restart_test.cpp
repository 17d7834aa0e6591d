#include <csignal>
#include <thread>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

// A restartable Service A, and a Service B that calls it.
class Restarts : public ::testing::Test {
 protected:
  explicit Restarts(milliseconds budget = milliseconds(1'000))
      : budget_(budget),
        b_(kServiceB, fixed_port(random_),
           {"--service-a-url=" + a_.url(), "--timeout=" + std::to_string(budget.count()) + "ms"}) {}

  CallerOptions callers_with(std::set<std::string, std::less<>> reasons) const {
    return {.port = b_.port(),
            .seed = chaos_seed(),
            .reasons = std::move(reasons),
            .limit = budget_ + milliseconds(50)};
  }

  const milliseconds budget_;
  std::mt19937 random_{chaos_seed()};
  Restartable a_{kServiceA, fixed_port(random_)};
  Restartable b_;
};

// With a budget so small that many hangs fit into a short test.
class Hangs : public Restarts {
 protected:
  Hangs() : Restarts(milliseconds(300)) {}
};

TEST_F(Restarts, ServiceAKilledOverAndOver) {
  const int restarts = kSanitized ? 25 : 100;
  const int warm_up = restarts / 5;
  b_.start();
  auto before = footprint(b_.pid());
  a_.start();
  Callers callers(callers_with({"connection_refused", "connection_closed"}));
  for (int i = 0; i < restarts; ++i) {
    ASSERT_TRUE(callers.wait_for_ok(1)) << callers.so_far().summary();
    pause(random_, milliseconds(0), milliseconds(20));
    a_.kill();
    if (random_() % 2 == 0) {
      ASSERT_TRUE(callers.wait_for_unavailable(1)) << callers.so_far().summary();
    }
    a_.start();
    if (i == warm_up) before.rss_kib = footprint(b_.pid()).rss_kib;
  }
  ASSERT_TRUE(callers.wait_for_ok(100));
  const auto tally = callers.stop();
  a_.kill();  // with it go the connections that are kept alive
  const auto differs = difference(b_.pid(), before);
  report(tally.summary() + " kills=" + std::to_string(restarts) + " | service-b before " +
         to_text(before) + ", after " + to_text(footprint(b_.pid())));
  expect_no_violation(tally);
  EXPECT_GT(tally.ok, 0U);
  EXPECT_GT(tally.unavailable_for("connection_refused"), 0U);
  EXPECT_EQ(differs, "");
  EXPECT_EQ(b_.stop(), 0);
}

TEST_F(Restarts, ServiceACleanlyRestartedCostsNo503OfItsOwn) {
  const int restarts = kSanitized ? 10 : 50;
  b_.start();
  a_.start();
  // connection_closed: a connection that the kernel makes between Service A's last accept(2) and
  // the end of its socket is reset. That is a matter of microseconds, and of few calls.
  Callers callers(callers_with({"connection_refused", "connection_closed"}));
  std::size_t while_down = 0;
  for (int i = 0; i < restarts; ++i) {
    ASSERT_TRUE(callers.wait_for_ok(20)) << callers.so_far().summary();
    pause(random_, milliseconds(0), milliseconds(10));
    ASSERT_EQ(a_.stop(), 0);
    // Every caller is refused at least once while nobody listens.
    if (random_() % 2 == 0) {
      ASSERT_TRUE(callers.wait_for_unavailable(16)) << callers.so_far().summary();
      while_down += 1;
    }
    a_.start();
  }
  const auto tally = callers.stop();
  report(tally.summary() + " clean restarts=" + std::to_string(restarts) + " (" +
         std::to_string(while_down) + " with a pause)");
  expect_no_violation(tally);
  EXPECT_GT(tally.unavailable_for("connection_refused"), 0U);
  EXPECT_LE(tally.unavailable_for("connection_closed"), static_cast<std::size_t>(restarts) / 5);
  EXPECT_EQ(b_.stop(), 0);
  EXPECT_EQ(a_.stop(), 0);
}

TEST_F(Hangs, ServiceAHungAndContinuedAtRandom) {
  b_.start();
  auto before = footprint(b_.pid());
  a_.start();
  Callers callers(callers_with({"timeout"}));
  ASSERT_TRUE(callers.wait_for_ok(100));
  before.rss_kib = footprint(b_.pid()).rss_kib;
  const int hangs = 15;
  for (int i = 0; i < hangs; ++i) {
    a_.hang();
    pause(random_, milliseconds(0), 2 * budget_);
    a_.resume();
    ASSERT_TRUE(callers.wait_for_ok(16)) << callers.so_far().summary();
    pause(random_, milliseconds(0), milliseconds(100));
  }
  const auto tally = callers.stop();
  expect_right_answer(b_.port(), "after");
  a_.kill();
  const auto differs = difference(b_.pid(), before);
  report(tally.summary() + " hangs=" + std::to_string(hangs) + " | service-b before " +
         to_text(before) + ", after " + to_text(footprint(b_.pid())));
  expect_no_violation(tally);
  EXPECT_GT(tally.unavailable_for("timeout"), 0U);
  EXPECT_EQ(differs, "");
  EXPECT_EQ(b_.stop(), 0);
}

TEST_F(Restarts, ServiceBStoppedAndStarted) {
  const int restarts = kSanitized ? 8 : 30;
  a_.start();
  b_.start();
  auto options = callers_with({});
  options.may_be_refused = true;
  options.may_be_closed = true;
  Callers callers(options);
  for (int i = 0; i < restarts; ++i) {
    ASSERT_TRUE(callers.wait_for_ok(16)) << callers.so_far().summary();
    pause(random_, milliseconds(0), milliseconds(20));
    ASSERT_EQ(b_.stop(), 0);
    b_.start();
  }
  ASSERT_TRUE(callers.wait_for_ok(16));
  const auto tally = callers.stop();
  EXPECT_EQ(b_.stop(), 0);
  EXPECT_EQ(a_.stop(), 0);
  report(tally.summary() + " restarts of service-b=" + std::to_string(restarts));
  expect_no_violation(tally);
  expect_none_taken(b_.log() + a_.log(), tally);
}

TEST_F(Hangs, AndRestartsOfBothAtRandom) {
  const int faults = kSanitized ? 15 : 50;
  a_.start();
  b_.start();
  auto options = callers_with({"connection_refused", "connection_closed", "timeout"});
  options.may_be_refused = true;
  options.may_be_closed = true;
  Callers callers(options);
  int kills = 0;
  int stops = 0;
  int hangs = 0;
  for (int i = 0; i < faults; ++i) {
    switch (random_() % 4) {
      case 0:
        ++kills;
        a_.kill();
        pause(random_, milliseconds(0), milliseconds(50));
        a_.start();
        break;
      case 1:
        ++stops;
        ASSERT_EQ(a_.stop(), 0);
        a_.start();
        break;
      case 2:
        ++stops;
        ASSERT_EQ(b_.stop(), 0);
        pause(random_, milliseconds(0), milliseconds(50));
        b_.start();
        break;
      default:  // service-b stops while its calls hang
        ++hangs;
        ++stops;
        a_.hang();
        pause(random_, milliseconds(0), milliseconds(50));
        ASSERT_EQ(b_.stop(), 0);
        a_.resume();
        b_.start();
    }
    ASSERT_TRUE(callers.wait_for_ok(16)) << callers.so_far().summary();
    pause(random_, milliseconds(0), milliseconds(20));
  }
  const auto tally = callers.stop();
  expect_right_answer(b_.port(), "after");
  EXPECT_EQ(b_.stop(), 0);
  EXPECT_EQ(a_.stop(), 0);
  report(tally.summary() + " kills=" + std::to_string(kills) +
         " clean stops=" + std::to_string(stops) + " hangs=" + std::to_string(hangs));
  expect_no_violation(tally);
  expect_none_taken(b_.log(), tally);
  EXPECT_EQ(b_.errors(), "");
}

}  // namespace
}  // namespace tests::chaos
