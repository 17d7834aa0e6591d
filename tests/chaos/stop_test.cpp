#include <csignal>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStopLimit{2'000};
constexpr int kRounds = 5;

struct Stopped {
  Tally tally;
  std::optional<int> status;
  milliseconds took{};
  milliseconds lost{};  // by the machine meanwhile: see Control
  std::string log;
};

// SIGTERM to `service` while its callers call, after they had `warm_up` answers. They end when they
// are refused.
Stopped stop_under(CallerOptions options, Service& service, std::size_t warm_up,
                   std::mt19937& random) {
  options.port = service.port();
  options.count = 32;
  options.seed =
      static_cast<std::uint32_t>(random());  // another one each time: ids are looked for in logs
  options.may_be_refused = true;
  options.ends_when_refused = true;
  options.may_be_closed = true;
  Callers callers(options);
  EXPECT_TRUE(callers.wait_for_ok(warm_up)) << callers.so_far().summary();
  pause(random, milliseconds(0), milliseconds(30));
  const auto lost = callers.control().lost();
  const auto start = Clock::now();
  service.process().signal(SIGTERM);
  Stopped stopped;
  stopped.status = service.process().wait(kPatience);
  stopped.took = std::chrono::duration_cast<milliseconds>(Clock::now() - start);
  stopped.lost = std::chrono::duration_cast<milliseconds>(callers.control().lost_by_now() - lost);
  EXPECT_TRUE(callers.wait(kPatience)) << "a caller is left without an answer";
  stopped.tally = callers.stop();
  stopped.log = service.process().out();
  EXPECT_EQ(service.process().err(), "");
  return stopped;
}

class StopUnderLoad : public ::testing::Test {
 protected:
  void judge(const Stopped& stopped, const std::string& further_log = {}) {
    all_.add(stopped.tally);
    slowest_ = std::max(slowest_, stopped.took);
    EXPECT_EQ(stopped.status, 0);
    EXPECT_LT(stopped.took, kStopLimit + kSlack + stopped.lost);
    expect_no_violation(stopped.tally);
    expect_none_taken(stopped.log + further_log, stopped.tally);
  }
  ~StopUnderLoad() override {
    report(all_.summary() + " stops=" + std::to_string(kRounds) +
           " slowest stop=" + std::to_string(slowest_.count()) + "ms");
  }

  std::mt19937 random_{chaos_seed()};
  Tally all_;
  milliseconds slowest_{};
};

TEST_F(StopUnderLoad, ServiceALosesNoRequestThatItTook) {
  for (int i = 0; i < kRounds; ++i) {
    Service a(kServiceA, {}, service_options());
    judge(stop_under({.target = Target::kServiceA, .limit = kStopLimit}, a, 500, random_));
  }
}

TEST_F(StopUnderLoad, ServiceAGivesTheAnswersItHoldsBack) {
  for (int i = 0; i < kRounds; ++i) {
    Service a(kServiceA, {"--delay=200ms"}, service_options());
    judge(stop_under({.target = Target::kServiceA, .limit = kStopLimit}, a, 64, random_));
  }
}

TEST_F(StopUnderLoad, ServiceBLosesNoRequestThatItTook) {
  Service a(kServiceA, {}, service_options());
  for (int i = 0; i < kRounds; ++i) {
    Service b(kServiceB, {"--service-a-url=" + a.url()}, service_options());
    const auto stopped = stop_under({.limit = kStopLimit}, b, 500, random_);
    judge(stopped, a.process().out());
  }
  EXPECT_EQ(a.stop(), 0);
}

TEST_F(StopUnderLoad, ServiceBWaitsForTheCallsThatServiceADelays) {
  Service a(kServiceA, {"--delay=300ms"}, service_options());
  for (int i = 0; i < kRounds; ++i) {
    Service b(kServiceB, {"--service-a-url=" + a.url()}, service_options());
    const auto stopped = stop_under({.limit = kStopLimit}, b, 64, random_);
    judge(stopped, a.process().out());
  }
  EXPECT_EQ(a.stop(), 0);
}

TEST_F(StopUnderLoad, ServiceBStopsInTimeWhileServiceAHangs) {
  Service a(kServiceA, {}, service_options());
  for (int i = 0; i < kRounds; ++i) {
    Service b(kServiceB, {"--service-a-url=" + a.url()}, service_options());
    Callers callers({.port = b.port(),
                     .count = 32,
                     .seed = static_cast<std::uint32_t>(random_()),
                     .reasons = {"timeout"},
                     .may_be_refused = true,
                     .ends_when_refused = true,
                     .may_be_closed = true});
    ASSERT_TRUE(callers.wait_for_ok(100));
    a.process().signal(SIGSTOP);
    pause(random_, milliseconds(0), milliseconds(300));
    const auto lost = callers.control().lost();
    const auto start = Clock::now();
    b.process().signal(SIGTERM);
    Stopped stopped;
    stopped.status = b.process().wait(kPatience);
    stopped.took = std::chrono::duration_cast<milliseconds>(Clock::now() - start);
    stopped.lost = std::chrono::duration_cast<milliseconds>(callers.control().lost_by_now() - lost);
    EXPECT_TRUE(callers.wait(kPatience)) << "a caller is left without an answer";
    stopped.tally = callers.stop();
    stopped.log = b.process().out();
    EXPECT_EQ(b.process().err(), "");
    a.process().signal(SIGCONT);
    judge(stopped);
    // Not twice: the answers that were under way tell the callers to go.
    EXPECT_LT(stopped.took, milliseconds(1'050) + kSlack + stopped.lost);
  }
  EXPECT_EQ(a.stop(), 0);
}

TEST(Stop, AtRandomMomentsOfTheStart) {
  std::mt19937 random(chaos_seed());
  const auto port = fixed_port(random);
  const int starts = kSanitized ? 20 : 60;
  int clean = 0;
  int before_it_could = 0;
  for (int i = 0; i < starts; ++i) {
    const auto& binary = random() % 2 == 0 ? kServiceA : kServiceB;
    Process process({binary, "--port=" + std::to_string(port)}, service_options());
    pause(random, milliseconds(0), milliseconds(kSanitized ? 400 : 40));
    process.signal(SIGTERM);
    const auto status = process.wait(kPatience);
    ASSERT_TRUE(status.has_value()) << "does not stop: " << process.out();
    const auto out = process.out();
    if (*status == 128 + SIGTERM) {
      // Before the service took the signal over it ends as any program does; nothing had begun.
      EXPECT_EQ(out, "");
      ++before_it_could;
    } else {
      EXPECT_EQ(*status, 0) << out << process.err();
      EXPECT_NE(out.find("msg=stopped"), std::string::npos) << out;
      ++clean;
    }
    EXPECT_EQ(process.err(), "");
  }
  report("starts=" + std::to_string(starts) + " exit 0=" + std::to_string(clean) +
         " ended before main=" + std::to_string(before_it_could));
  EXPECT_GT(clean, 0);
}

}  // namespace
}  // namespace tests::chaos
