#include <charconv>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

// Both services, of whose allocations one in `one_in` can be made to fail.
class OutOfMemory : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer brings its own operator new";
  }

  static ProcessOptions failing() {
    auto options = service_options();
    options.environment.push_back("LD_PRELOAD=" FAILING_ALLOCATOR);
    options.environment.push_back("FAIL_ONE_IN=" + std::to_string(GetParam()));
    options.environment.push_back("FAIL_SEED=" + std::to_string(chaos_seed()));
    return options;
  }

  static unsigned failures(const Process& process) {
    constexpr std::string_view kBefore = "allocations that failed: ";
    const auto err = process.err();
    const auto at = err.find(kBefore);
    unsigned count = 0;
    if (at == std::string::npos) return count;
    std::from_chars(err.data() + at + kBefore.size(), err.data() + err.size(), count);
    return count;
  }

  // Each is whole, and tells of one answer.
  static void expect_sound_lines(const Process& process) {
    for (const auto& line : process.lines()) {
      EXPECT_EQ(line.find(" error="), line.rfind(" error=")) << line;
      EXPECT_EQ(line.rfind("time="), 0U) << line;
      EXPECT_NE(line.find(" service="), std::string::npos) << line;
    }
  }
};

TEST_P(OutOfMemory, IsTheEndOfAnAnswerAndNotOfTheProcess) {
  Service a(kServiceA, {}, failing());
  // By a name, so that there is a look-up, too.
  Service b(kServiceB, {"--service-a-url=http://localhost:" + std::to_string(a.port())}, failing());
  const auto before_a = footprint(a.process().pid());
  const auto before_b = footprint(b.process().pid());
  {
    Callers callers({.port = b.port(),
                     .count = 8,
                     .seed = chaos_seed(),
                     .reasons = {"overloaded", "bad_status", "connection_closed", "dns_failure"},
                     .may_fail = true});
    EXPECT_TRUE(callers.wait_for_ok(100));
    for (auto* service : {&a, &b}) service->process().signal(SIGUSR1);
    EXPECT_TRUE(callers.wait_for_failed(500));
    EXPECT_TRUE(eventually([&] { return get(b.port(), "/metrics").status() == 200; }));
    for (auto* service : {&a, &b}) service->process().signal(SIGUSR2);
    const auto tally = callers.stop();
    report(tally.summary() + ", one in " + std::to_string(GetParam()) + " fails");
    expect_no_violation(tally);
    EXPECT_LT(tally.lost * 10, tally.calls);
  }
  Callers callers({.port = b.port(), .count = 8, .seed = chaos_seed() + 1});
  EXPECT_TRUE(callers.wait_for_ok(100));
  expect_no_violation(callers.stop());
  EXPECT_EQ(difference(a.process().pid(), before_a), "");
  EXPECT_EQ(difference(b.process().pid(), before_b), "");
  for (auto* service : {&b, &a}) {
    EXPECT_EQ(service->stop(), 0);
    EXPECT_GT(failures(service->process()), 50U);
    EXPECT_NE(service->process().out().find("status=500"), std::string::npos);
    expect_sound_lines(service->process());
  }
}

INSTANTIATE_TEST_SUITE_P(OneIn, OutOfMemory, ::testing::Values(1'000, 100),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tests::chaos
