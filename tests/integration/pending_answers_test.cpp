// Clients that do not just wait while their answer is awaited.

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::string kEchoBody = "{\"echo\":\"x\"}\n";

struct PendingAnswers : testing::Test {
  Service a = start_a({"--delay=300ms"});

  // The service lives, and nothing of what was awaited is left.
  void expect_well() {
    EXPECT_TRUE(
        eventually([&] { return sample(metrics_of(a.port()), "http_server_active_requests") == 1; },
                   kPatience));  // 1: the one that asks
    EXPECT_TRUE(a.process().running());
    EXPECT_EQ(a.stop(), 0);
  }
};

TEST_F(PendingAnswers, ReachAClientThatHasClosedItsSide) {
  for (const auto* const request :
       {"GET /echo?msg=x HTTP/1.0\r\n\r\n", "GET /echo?msg=x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo?msg=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"}) {
    Connection client(a.port());
    client.send(request);
    client.shutdown_write();
    const auto response = client.read_response(kPatience);
    ASSERT_TRUE(response) << client.error();
    expect_json(*response, 200, kEchoBody);
    EXPECT_TRUE(client.closed_by_peer(kPatience));
  }
  expect_well();
}

TEST_F(PendingAnswers, ReachAClientThatSendsMore) {
  Connection client(a.port());
  client.send("GET /echo?msg=x HTTP/1.0\r\n\r\n");
  for (int i = 0; i < 10; ++i) {
    client.send("x");
    std::this_thread::sleep_for(10ms);
  }
  const auto response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  expect_json(*response, 200, kEchoBody);
  EXPECT_TRUE(client.closed_by_peer(kPatience));
  EXPECT_EQ(client.unread(), "");
  expect_well();
}

TEST_F(PendingAnswers, OfClientsThatLeaveHarmNobody) {
  for (const auto* const version : {"1.0", "1.1"}) {
    for (int i = 0; i < 20; ++i) {
      Connection client(a.port());
      // What is answered at once is still to be sent when the reset comes, or just was.
      for (int k = 0; k < i; ++k) client.send(request_text("/health"));
      client.send("GET /echo?msg=x HTTP/" + std::string(version) + "\r\nHost: a\r\n\r\n");
      client.send(request_text("/health"));
      client.reset();
    }
  }
  expect_well();
}

TEST_F(PendingAnswers, LeaveTheNextRequestItsTime) {
  auto slow = start_a({"--delay=6s"});  // longer than a head may take
  Connection client(slow.port());
  client.send(request_text("/echo?msg=x") + "GET /health HTTP/1.1\r\nHo");
  auto response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  expect_json(*response, 200, kEchoBody);
  client.send("st: a\r\n\r\n");
  response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  EXPECT_EQ(response->status, 200);
}

// Nagle's algorithm would hold the second answer until the client's delayed acknowledgement.
TEST(Pipelining, OfCallsIsNotHeldUpByTcp) {
  auto a = start_a();
  auto b = start_b(a.url());
  Connection client(b.port());
  std::vector<milliseconds> times;
  for (int i = 0; i < 21; ++i) {
    const auto start = Clock::now();
    client.send(request_text("/call-echo?msg=x") + request_text("/call-echo?msg=x"));
    ASSERT_TRUE(client.read_response(kPatience)) << client.error();
    ASSERT_TRUE(client.read_response(kPatience)) << client.error();
    times.push_back(std::chrono::duration_cast<milliseconds>(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  EXPECT_LT(times[times.size() / 2], 20ms + kSlack);
}

// Whoever connects and says nothing does not hold up the end, on whichever thread it is.
TEST(Stop, DoesNotWaitForClientsThatHaveNotAskedYet) {
  auto a = start_a();
  std::vector<Connection> silent;
  for (int i = 0; i < 8; ++i) silent.emplace_back(a.port());
  EXPECT_TRUE(
      eventually([&] { return sample(metrics_of(a.port()), "http_server_open_connections") >= 8; },
                 kPatience));
  const auto start = Clock::now();
  EXPECT_EQ(a.stop(), 0);
  EXPECT_LT(Clock::now() - start, 2s + kSlack);  // of ten that they may have
}

}  // namespace
}  // namespace tests
