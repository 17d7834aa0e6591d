#include "chaos/callers.hpp"

namespace tests::chaos {
namespace {

class StopUnderLoad : public Chaos {};

TEST_F(StopUnderLoad, LosesNoRequestThatWasTakenAndTakesNoLongerThanItMust) {
  struct Row {
    const char* what;
    bool of_a;
    const char* delay;  // of service-a
    std::size_t warm_up;
    bool hangs;  // service-a does, from shortly before the stop
    milliseconds limit;
  };
  for (const auto& row :
       {Row{"service-a", true, "0s", 500, false, milliseconds(2'000)},
        Row{"service-a holds answers back", true, "200ms", 64, false, milliseconds(2'000)},
        Row{"service-b", false, "0s", 500, false, milliseconds(2'000)},
        Row{"service-b waits for answers", false, "300ms", 64, false, milliseconds(2'000)},
        // Not twice: the answers under way tell the callers to go.
        Row{"service-a hangs", false, "0s", 100, true, milliseconds(1'050)}}) {
    SCOPED_TRACE(row.what);
    a_.flags = {std::string("--delay=") + row.delay};
    Tally all;
    Clock::duration slowest{};
    if (!row.of_a) a_.start();
    for (int i = 0; i < 5 && !HasFailure(); ++i) {
      auto& service = row.of_a ? a_ : b_;
      service.start();
      Callers callers({.port = service.port(),
                       .path = row.of_a ? "/echo" : "/call-echo",
                       .count = 32,
                       .seed = static_cast<std::uint32_t>(random_()),  // ids are looked for in logs
                       .reasons = row.hangs ? Reasons{"timeout"} : Reasons{},
                       .limit = row.limit,
                       .stops = CallerOptions::Stops::kAndThatIsAll});
      callers.wait_for_ok(row.warm_up);
      if (row.hangs) a_.hang();
      pause(random_, 0, row.hangs ? 300 : 30);
      const auto timing = callers.control().time([&] { service.stop(); });
      EXPECT_LT(timing.took, row.limit + kSlack + timing.lost);
      slowest = std::max(slowest, timing.took);
      callers.wait_until_done();
      if (row.hangs) a_.resume();
      all.add(callers.stop());
    }
    if (!row.of_a) a_.stop();
    expect_no_violation(all, a_.log() + b_.log());
    report(row.what + (" " + all.summary()) +
           ", slowest stop=" + std::to_string(slowest / milliseconds(1)) + "ms");
  }
}

TEST(Stop, AtRandomMomentsOfTheStart) {
  std::mt19937 random(chaos_seed());
  const auto begin = Clock::now();
  const Service first(kServiceA);
  const auto twice_a_start = static_cast<int>(2 * (Clock::now() - begin) / milliseconds(1)) + 1;
  int clean = 0;
  int before_it_listened = 0;
  for (int i = 0; i < (kSanitized ? 20 : 60); ++i) {
    Process process({random() % 2 == 0 ? kServiceA : kServiceB, "--port=0"});
    pause(random, 0, twice_a_start);
    process.signal(SIGTERM);
    const auto status = process.wait(kPatience);
    const auto out = process.out();
    ASSERT_TRUE(status.has_value()) << "does not stop: " << out;
    if (out.empty()) {
      // At first it ends as any program does.
      EXPECT_TRUE(*status == 0 || *status == 128 + SIGTERM) << *status;
      ++before_it_listened;
    } else {
      EXPECT_EQ(*status, 0) << out;
      EXPECT_NE(out.find("msg=stopped"), std::string::npos) << out;
      ++clean;
    }
    EXPECT_EQ(process.err(), "");
  }
  report("exit 0=" + std::to_string(clean) +
         " before it listened=" + std::to_string(before_it_listened));
  EXPECT_GT(clean, 0);
}

}  // namespace
}  // namespace tests::chaos
