#include <csignal>
#include <thread>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

const milliseconds kHealthLimit = milliseconds(50) + kSlack;

// Asks for /health, each time over a new connection, until stopped.
class HealthProbe {
 public:
  explicit HealthProbe(std::uint16_t port) : thread_([this, port] { run(port); }) {}
  ~HealthProbe() { stop(); }

  Tally stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
    return tally_;
  }

 private:
  void run(std::uint16_t port) {
    while (!stopping_) {
      const auto start = Clock::now();
      const auto result = get(port, "/health");
      tally_.add_duration(
          std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start));
      ++tally_.calls;
      if (result.status() == 200) {
        ++tally_.ok;
      } else {
        tally_.violation("/health: " + std::to_string(result.status()) + " " + result.error);
      }
      std::this_thread::sleep_for(milliseconds(5));
    }
  }

  std::atomic<bool> stopping_{false};
  Tally tally_;  // of the thread, until it was joined
  std::thread thread_;
};

TEST(Overload, HealthStaysQuickAndMostCallersHearAtOnceWhileServiceAHangs) {
  std::mt19937 random(chaos_seed());
  Service a(kServiceA, {}, service_options());
  Service b(kServiceB, {"--service-a-url=" + a.url()}, service_options());
  const auto before = footprint(b.process().pid());
  expect_right_answer(b.port(), "before");

  a.process().signal(SIGSTOP);
  HealthProbe probe(b.port());
  // 300 callers that hardly pause keep two cores busy by themselves: what would be measured is
  // them.
  Callers callers({.port = b.port(),
                   .count = 300,
                   .seed = chaos_seed(),
                   .reasons = {"timeout", "overloaded"},
                   .limit = milliseconds(1'050),
                   .pause = milliseconds(200)});
  ASSERT_TRUE(callers.wait_for_unavailable(kSanitized ? 1'000 : 4'000));
  const auto during = footprint(b.process().pid());
  const auto tally = callers.stop();
  const auto health = probe.stop();

  a.process().signal(SIGCONT);
  const auto start = Clock::now();
  expect_right_answer(b.port(), "the first call after service-a is back");
  const auto first = std::chrono::duration_cast<milliseconds>(Clock::now() - start);

  report(tally.summary() + " | /health " + health.summary() + " | first call after: " +
         std::to_string(first.count()) + "ms | while hung " + to_text(during));
  expect_no_violation(tally);
  expect_no_violation(health);
  // To connect, to be answered and to read it are three wakes; the machine must have its part.
  const auto limit = kHealthLimit.count() + 3 * callers.control().percentile(0.99);
  EXPECT_LT(health.percentile(0.99), limit);
  EXPECT_EQ(tally.ok, 0U);
  EXPECT_GT(tally.unavailable_for("timeout"), 0U);
  EXPECT_GT(tally.unavailable_for("overloaded"), tally.calls * 9 / 10);
  EXPECT_LT(tally.percentile(0.9), limit) << "of all calls, in milliseconds";
  EXPECT_EQ(during.threads, before.threads);
  a.process().kill();  // with it go the connections that are kept alive
  EXPECT_EQ(difference(b.process().pid(), before), "");
  EXPECT_EQ(b.stop(), 0);
}

TEST(Overload, CallersAreServedAgainWhileTheyGoOnCalling) {
  Service a(kServiceA, {}, service_options());
  Service b(kServiceB, {"--service-a-url=" + a.url()}, service_options());
  Callers callers({.port = b.port(),
                   .count = 100,
                   .seed = chaos_seed(),
                   .reasons = {"timeout", "overloaded"},
                   .limit = milliseconds(1'050),
                   .pause = milliseconds(20)});
  ASSERT_TRUE(callers.wait_for_ok(500));
  int hangs = 0;
  for (; hangs < 3; ++hangs) {
    a.process().signal(SIGSTOP);
    EXPECT_TRUE(callers.wait_for_unavailable(500));
    a.process().signal(SIGCONT);
    EXPECT_TRUE(callers.wait_for_ok(500));
  }
  const auto tally = callers.stop();
  report(tally.summary() + " hangs=" + std::to_string(hangs));
  expect_no_violation(tally);
  expect_right_answer(b.port(), "after");
  EXPECT_EQ(b.stop(), 0);
  EXPECT_EQ(a.stop(), 0);
}

}  // namespace
}  // namespace tests::chaos
