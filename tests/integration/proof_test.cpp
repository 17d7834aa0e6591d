// The proofs of the lab, with real processes: A answers, A is stopped, A is slow, A is back.

#include <array>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

void expect_success(const Service& b) {
  expect_json(get(b.port(), kCall), 200,
              "{\"service_a\":{\"echo\":\"hello\"},\"service_b\":\"ok\"}\n");
}

// That B answers 503 for `reason` within 50 ms of `budget`, and says so in its log; and that it
// lives: /health is answered, and it is the same process.
void expect_unavailable(Service& b, const std::string& reason, milliseconds budget) {
  std::array<Response, 5> results;
  const auto timings = time_at_once(results.size(), [&](std::size_t i) {
    const auto start = Clock::now();
    results.at(i) = get(b.port(), kCall);
    EXPECT_GE(Clock::now() - start, budget);
  });
  expect_in_time(timings, budget + 50ms, reason);
  for (const auto& result : results) {
    ASSERT_EQ(result.status, 503) << result.error;
    EXPECT_EQ(result.field("service_b"), "ok");
    EXPECT_EQ(result.field("service_a"), "unavailable");
    EXPECT_EQ(result.field("reason"), reason);
    const auto line = line_of(b.process(), result);
    EXPECT_EQ(value(line, "level"), "error");
    EXPECT_EQ(value(line, "service"), "service-b");
    EXPECT_EQ(value(line, "endpoint"), "/call-echo");
    EXPECT_EQ(value(line, "status"), "503");
    EXPECT_EQ(value(line, "reason"), reason);
    EXPECT_EQ(value(line, "error"), result.field("error"));
    EXPECT_GE(std::stod(value(line, "latency_ms")), static_cast<double>(budget.count()));
  }
  expect_json(get(b.port(), "/health"), 200, kOk);
  EXPECT_TRUE(b.process().running());
}

TEST(Proof, BAnswersWithWhatASays) {
  const auto a = start_a();
  expect_json(get(a.port(), "/health"), 200, kOk);
  expect_json(get(a.port(), "/echo?msg=hello"), 200, "{\"echo\":\"hello\"}\n");
  const auto b = start_b(a.url());
  expect_json(get(b.port(), "/health"), 200, kOk);
  expect_success(b);
}

TEST(Proof, BothLogTheRequestWithTheSameIdAndTrace) {
  auto a = start_a();
  auto b = start_b(a.url());
  const std::string trace_id = "0af7651916cd43dd8448eb211c80319c";
  const auto result = get(
      b.port(), kCall,
      {{"X-Request-ID", "proof-1"}, {"traceparent", "00-" + trace_id + "-b7ad6b7169203331-01"}});
  ASSERT_EQ(result.status, 200);
  for (const auto& [service, name, endpoint] :
       {std::tuple{&a, "service-a", "/echo"}, {&b, "service-b", "/call-echo"}}) {
    const auto line = line_with(service->process(), "request_id", "proof-1");
    EXPECT_EQ(value(line, "service"), name);
    EXPECT_EQ(value(line, "endpoint"), endpoint);
    EXPECT_EQ(value(line, "status"), "200");
    EXPECT_EQ(value(line, "trace_id"), trace_id);
    EXPECT_GT(std::stod(value(line, "latency_ms")), 0);
  }
}

TEST(Proof, AStoppedIsA503AtOnceAndBLives) {
  auto a = start_a();
  auto b = start_b(a.url());
  expect_success(b);
  EXPECT_EQ(a.stop(), 0);
  expect_unavailable(b, "connection_refused", 0ms);
}

TEST(Proof, ASlowIsA503AfterOneSecondAndBLives) {
  const auto a = start_a({"--delay=3s"});
  auto b = start_b(a.url());
  expect_unavailable(b, "timeout", 1s);
}

TEST(Proof, ABackIsA200AndBNeededNoRestart) {
  const auto port = "--port=" + std::to_string(lasting_port());
  auto a = start_a({port});
  auto b = start_b(a.url());
  expect_success(b);
  a.process().kill();
  expect_unavailable(b, "connection_refused", 0ms);
  const auto again = start_a({port});
  expect_success(b);
}

}  // namespace
}  // namespace tests
