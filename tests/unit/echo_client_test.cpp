#include "service-b/echo_client.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/http/request_head.hpp"
#include "common/http/trace.hpp"
#include "support/faulty_upstream.hpp"
#include "unit/run_on_fiber.hpp"

namespace service_b {
namespace {

using namespace std::chrono_literals;

/// Makes one call on a loop of its own, and waits for what comes of it.
std::optional<Unavailable> call(const Options& options, const std::string& msg,
                                const common::http::Exchange& exchange = {}) {
  common::http::Loop loop;
  EchoClient client(options, 1);
  std::optional<Unavailable> result;
  tests::run_on_fiber(loop, [&] { result = client.echo(msg, exchange); });
  return result;
}

TEST(EchoClient, AMsgThatFitsIsOneThatServiceAAccepts) {
  const auto accepted = [](const std::string& encoded) {
    const auto request = "GET /echo?msg=" + encoded + " HTTP/1.1\r\nHost: a\r\n\r\n";
    return std::holds_alternative<common::http::RequestHead>(
        common::http::parse_request_head(request));
  };
  const std::size_t most = 8192 - std::string("GET /echo?msg= HTTP/1.1").size();
  EXPECT_TRUE(EchoClient::fits(std::string(most, 'a')));
  EXPECT_TRUE(accepted(std::string(most, 'a')));
  EXPECT_FALSE(EchoClient::fits(std::string(most + 1, 'a')));
  EXPECT_FALSE(accepted(std::string(most + 1, 'a')));
  EXPECT_TRUE(EchoClient::fits(std::string(most / 3, ' ')));
  EXPECT_FALSE(EchoClient::fits(std::string(most / 3 + 1, ' ')));
}

TEST(EchoClient, SendsNothingButWhatItIsGivenAndItsOwn) {
  const tests::FaultyUpstream upstream(tests::right_mode());
  Options options;
  options.service_a_url = upstream.url();
  options.timeout = 10s;  // not what is tested here
  common::http::Exchange exchange;
  exchange.request_id = "the-id";
  exchange.trace = common::http::continue_trace(
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "a=1");
  EXPECT_FALSE(call(options, "a b&c", exchange));
  ASSERT_EQ(upstream.requests().size(), 1u);
  const auto request = upstream.requests()[0];
  const auto parsed = common::http::parse_request_head(request);
  ASSERT_TRUE(std::holds_alternative<common::http::RequestHead>(parsed)) << request;
  const auto& head = std::get<common::http::RequestHead>(parsed);
  EXPECT_EQ(head.path, "/echo");
  EXPECT_EQ(head.query, "msg=a%20b%26c");
  EXPECT_EQ(head.only("host"), "127.0.0.1:" + std::to_string(upstream.port()));
  EXPECT_EQ(head.only("x-request-id"), "the-id");
  EXPECT_EQ(head.only("traceparent"), exchange.trace.traceparent());
  EXPECT_EQ(head.only("tracestate"), "a=1");
  EXPECT_TRUE(head.keep_alive);
}

TEST(EchoClient, CallsEachFailureByItsReason) {
  std::vector<std::thread> callers;  // side by side, for most of the time they wait
  for (const auto& mode : tests::modes()) {
    callers.emplace_back([&mode] {
      const tests::FaultyUpstream upstream(mode);
      Options options;
      options.service_a_url = upstream.url();
      options.timeout = mode.reason == "timeout" ? 500ms : 10s;
      const auto unavailable = call(options, "hello");
      EXPECT_EQ(unavailable ? unavailable->reason : "", mode.reason) << mode.name;
      EXPECT_EQ(unavailable ? unavailable->upstream_status : 0, mode.upstream_status) << mode.name;
      EXPECT_EQ(unavailable && unavailable->sentence.empty(), false) << mode.name;
    });
    if (callers.size() == 16) {
      for (auto& caller : callers) caller.join();
      callers.clear();
    }
  }
  for (auto& caller : callers) caller.join();
}

}  // namespace
}  // namespace service_b
