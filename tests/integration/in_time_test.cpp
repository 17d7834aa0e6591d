// What is promised in time, judged as it is stated: twenty of each at once, half of them within the
// time, and each within it and what a control beside them lost to the machine.

#include "integration/harness.hpp"
#include "support/network.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMany = 20;
constexpr auto kMargin = 50ms;  // the contract's word: within the budget and 50 ms

// That twenty calls of `b` at once end with that reason, when `budget` is over, and no later than
// the contract allows.
void expect_timeouts(const Service& b, milliseconds budget, const std::string& what) {
  const auto timings = time_at_once(kMany, [&](std::size_t) {
    const auto start = Clock::now();
    const auto result = get(b.port(), kCall);
    EXPECT_EQ(result.status, 503) << what << ": " << result.error;
    EXPECT_EQ(result.field("reason"), "timeout") << what;
    EXPECT_GE(Clock::now() - start, budget) << what;
  });
  expect_in_time(timings, budget + kMargin, what);
}

std::string timeout_flag(milliseconds budget) {
  return "--timeout=" + std::to_string(budget.count()) + "ms";
}

TEST(Budget, IsOneSecondUnlessToldOtherwise) {
  FaultyUpstream upstream(mode_named("silent"));
  expect_timeouts(start_b(upstream.url()), 1s, "silent");
}

TEST(Budget, HoldsWhateverServiceADoesMeanwhile) {
  for (const std::string mode : {"silent", "never-read", "dripped-head", "dripped-body",
                                 "dripped-chunks", "fast-dripped-body", "half-body"}) {
    FaultyUpstream upstream(mode_named(mode));
    expect_timeouts(start_b(upstream.url(), {timeout_flag(300ms)}), 300ms, mode);
  }
}

TEST(Budget, HoldsWhenServiceAHangsAndTheFirstCallAfterIsA200) {
  auto a = start_a();
  auto b = start_b(a.url(), {timeout_flag(300ms)});
  // There is a kept connection, and there are new ones.
  ASSERT_EQ(get(b.port(), kCall).status, 200);
  a.process().hang();
  expect_timeouts(b, 300ms, "SIGSTOP");
  a.process().signal(SIGCONT);
  EXPECT_EQ(get(b.port(), kCall).status, 200);
}

// In a network of its own, where packets can be made to vanish.
struct BudgetInANetwork : testing::Test {
  void SetUp() override {
    if (const auto why = why_no_network()) GTEST_SKIP() << *why;
    network.emplace();
  }
  Service start_b_for(const std::string& host) const {
    return network->start("b", kServiceB,
                          {"--service-a-url=http://" + host + ":8080", timeout_flag(300ms)});
  }
  std::optional<Network> network;
};

TEST_F(BudgetInANetwork, HoldsForAnAddressThatSwallowsPackets) {
  expect_timeouts(start_b_for(Network::kSilentAddress), 300ms, "black hole");
}

TEST_F(BudgetInANetwork, HoldsForANameServerThatSaysNothing) {
  network->set_etc("b", "resolv.conf", std::string("nameserver ") + Network::kSilentAddress + "\n");
  expect_timeouts(start_b_for("service-a.test"), 300ms, "name server");
}

// --- what is answered at once, and not after the budget

// That twenty requests at once are answered so: in a quarter of the budget, which is far more than
// they need. They share the processors with the services, which the control, that only sleeps, does
// not feel on a busy machine.
void expect_at_once(const Service& service, const std::string& target, int status,
                    const std::string& reason) {
  const auto timings = time_at_once(kMany, [&](std::size_t) {
    const auto result = get(service.port(), target);
    EXPECT_EQ(result.status, status) << target << ": " << result.error;
    EXPECT_EQ(result.field("reason"), reason) << target;
  });
  expect_in_time(timings, 250ms, target + " " + reason, 500ms);
}

TEST(AtOnce, OverloadedAndHealthAreAnsweredBesideAsManyHungCallsAsThereMayBe) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s"});
  auto hung = connect_and_send(b.port(), 64, request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 64; }));
  expect_at_once(b, kCall, 503, "overloaded");
  for (const std::string target : {"/health", "/ready", "/metrics", "/nope"}) {
    expect_at_once(b, target, target == "/nope" ? 404 : 200, "(none)");
  }
  EXPECT_EQ(upstream.connections(), 64U);  // overloaded calls nobody
  for (auto& each : hung) EXPECT_FALSE(each.read_response(0ms));
}

TEST(AtOnce, EverythingElseIsAnsweredBesideDelayedAnswers) {
  auto a = start_a({"--delay=60s"});
  auto late = connect_and_send(a.port(), 64, request_text("/echo"));  // more than threads
  for (const std::string target : {"/health", "/ready", "/metrics", "/nope"}) {
    expect_at_once(a, target, target == "/nope" ? 404 : 200, "(none)");
  }
  for (auto& each : late) EXPECT_FALSE(each.read_response(0ms));
}

// --- what ends when its time is over

TEST(HeadTimeout, EndsAHeadThatIsNotCompleteAfterFiveSecondsDrippingOrNot) {
  const ClosedPort nobody;
  auto a = start_a();
  auto b = start_b(nobody.url());
  const auto timings = time_at_once(2 * kMany, [&](std::size_t i) {
    Connection connection(i % 2 == 0 ? a.port() : b.port());
    const auto start = Clock::now();
    EXPECT_TRUE(connection.send("GET /health HTTP/1.1\r\nHost: a\r\nX: "));
    Response response;
    for (int k = 0; k < 200 && !response; ++k) {
      if (i % 4 < 2) connection.send("x");
      response = connection.read_response(50ms);
    }
    EXPECT_GE(Clock::now() - start, 5s);
    EXPECT_EQ(response.status, 408) << response.error;
    EXPECT_NE(response.field("error"), "(none)");
    expect_last(connection, response);
  });
  expect_in_time(timings, 5s + kMargin, "408");
}

TEST(Drain, TakesTheTimeItIsGivenAndNoMore) {
  struct Row {
    std::string what;
    std::vector<std::string> flags;
    bool hung;  // with a call under way, otherwise with an idle connection
    milliseconds time;
  };
  for (const auto& [what, flags, hung, time] :
       std::vector<Row>{{"an idle client", {}, false, 0ms},
                        {"drain delay", {"--drain-delay=300ms"}, false, 300ms},
                        {"drain timeout", {"--drain-timeout=300ms"}, true, 300ms},
                        {"both", {"--drain-delay=200ms", "--drain-timeout=200ms"}, true, 400ms}}) {
    FaultyUpstream upstream(mode_named("silent"));
    std::vector<std::unique_ptr<Service>> services;
    std::vector<Connection> clients;
    for (int i = 0; i < 5; ++i) {
      auto all_flags = flags;
      all_flags.insert(all_flags.end(), {"--timeout=60s", "--service-a-url=" + upstream.url()});
      services.push_back(std::make_unique<Service>(kServiceB, all_flags));
      clients.emplace_back(services.back()->port());
      clients.back().send(request_text(hung ? kCall : "/health"));
      ASSERT_TRUE(hung || clients.back().read_response());
    }
    ASSERT_TRUE(eventually([&] { return upstream.requests().size() == (hung ? 5U : 0U); }));
    const auto timings = time_at_once(services.size(), [&](std::size_t i) {
      const auto start = Clock::now();
      EXPECT_EQ(services[i]->stop(), 0) << what;
      EXPECT_GE(Clock::now() - start, time) << what;
    });
    expect_in_time(timings, time + 2 * kMargin, what);  // the process has to end as well
  }
}

}  // namespace
}  // namespace tests
