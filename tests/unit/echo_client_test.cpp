#include "service-b/echo_client.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "common/http/request_head.hpp"
#include "common/http/trace.hpp"
#include "support/faulty_upstream.hpp"

namespace service_b {
namespace {

using namespace std::chrono_literals;

/// Makes one call in a loop of its own, and waits for what comes of it.
EchoClient::Answer call(const Options& options, const std::string& msg, const std::string& id,
                        const common::http::TraceContext& trace) {
  common::http::Loop loop;
  EchoClient client(options, 1);
  std::optional<EchoClient::Answer> result;
  client.echo(loop, msg, id, trace, [&](EchoClient::Answer answer) {
    result = std::move(answer);
    loop.stop();
  });
  loop.run();
  return *result;
}

std::string reason_of(const EchoClient::Answer& result) {
  const auto* unavailable = std::get_if<Unavailable>(&result);
  return unavailable ? std::string(unavailable->reason) : "";
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
  const auto trace = common::http::continue_trace(
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "a=1");
  const auto result = call(options, "a b&c", "the-id", trace);
  ASSERT_EQ(reason_of(result), "");
  EXPECT_EQ(std::get<std::string>(result), R"({"echo":"a b&c"})");
  ASSERT_EQ(upstream.requests().size(), 1u);
  const auto request = upstream.requests()[0];
  const auto parsed = common::http::parse_request_head(request);
  ASSERT_TRUE(std::holds_alternative<common::http::RequestHead>(parsed)) << request;
  const auto& head = std::get<common::http::RequestHead>(parsed);
  EXPECT_EQ(head.path, "/echo");
  EXPECT_EQ(head.query, "msg=a%20b%26c");
  EXPECT_EQ(head.sole("host"), "127.0.0.1:" + std::to_string(upstream.port()));
  EXPECT_EQ(head.sole("x-request-id"), "the-id");
  EXPECT_EQ(head.sole("traceparent"), trace.traceparent());
  EXPECT_EQ(head.sole("tracestate"), "a=1");
  EXPECT_TRUE(head.keep_alive);
}

// Each way in which an upstream can fail, once more without a process around it: in time, with the
// right word, and with a sentence for a person.
class EchoClientFailure : public testing::TestWithParam<tests::Mode> {};

TEST_P(EchoClientFailure, IsCalledByItsReasonInTime) {
  const auto& mode = GetParam();
  const tests::FaultyUpstream upstream(mode);
  Options options;
  options.service_a_url = upstream.url();
  options.timeout = 500ms;
  const auto start = std::chrono::steady_clock::now();
  const auto result = call(options, "hello", "id", common::http::continue_trace("", ""));
  const auto elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(reason_of(result), mode.reason) << mode.description;
  // The contract allows 50 ms; a busy machine with sanitizers some more.
  EXPECT_LT(elapsed, 500ms + 250ms) << mode.description;
  if (const auto* unavailable = std::get_if<Unavailable>(&result)) {
    EXPECT_NE(unavailable->sentence, "");
    EXPECT_EQ(unavailable->upstream_status, mode.upstream_status);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryMode, EchoClientFailure,
                         testing::ValuesIn(tests::modes().begin(), tests::modes().end()),
                         [](const auto& test) { return tests::test_name(test.param); });

}  // namespace
}  // namespace service_b
