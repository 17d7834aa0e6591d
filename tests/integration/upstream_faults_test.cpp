// What Service B makes of a Service A that fails: its answer, its log line, its connections. That
// it is in time is in_time_test.cpp's.

#include <array>
#include <thread>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::string kTimeoutFlag = "--timeout=300ms";

void expect_right(const Response& response) { expect_json(response, 200, call_body("hello")); }

// That `response` is the 503 for `reason`, as its log line, which is returned, is as well.
LogLine expect_unavailable(Service& b, const Response& response, const std::string& reason) {
  const auto error = response.field("error");
  expect_json(response, 503,
              "{\"error\":" + quoted(error) + ",\"reason\":\"" + reason +
                  "\",\"service_a\":\"unavailable\",\"service_b\":\"ok\"}\n");
  EXPECT_EQ(response.header("retry-after"), "1");
  EXPECT_TRUE(matches(response.header("server-timing").value_or(""), "service-a;dur=\\d+\\.\\d+"));

  auto line = line_of(b.process(), response);
  EXPECT_EQ(value(line, "level"), "error");
  EXPECT_EQ(value(line, "status"), "503");
  EXPECT_EQ(value(line, "reason"), reason);
  EXPECT_EQ(value(line, "error"), error);
  EXPECT_TRUE(matches(value(line, "upstream_ms"), "\\d+\\.\\d+"));
  return line;
}

// All on one connection: each thread of B has connections to A of its own, and these calls are all
// on the same thread.
Response call(Connection& client, const std::string& msg = "hello") {
  client.send(request_text("/call-echo?msg=" + percent_encode(msg)));
  return client.read_response(kPatience);
}

// --- every mode of the faulty upstream

// Some of the modes, one after the other, in one Service B.
std::vector<Timing> expect_right_verdicts(std::span<const Mode> modes, std::size_t first,
                                          std::size_t step) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  Connection client(b.port());
  Control control;
  std::vector<Timing> timings;
  for (auto i = first; i < modes.size(); i += step) {
    const Mode& mode = modes[i];
    SCOPED_TRACE(std::string(mode.name));
    upstream.set_mode(mode);
    // Twice: nothing of the first answer may be taken for the second.
    for (const std::string msg : {"hello", "other \xF0\x9F\x98\x80\"&"}) {
      Response response;
      const auto requests = upstream.requests().size();
      timings.push_back(control.time([&] { response = call(client, msg); }));
      timings.back().what = mode.name;
      if (mode.status == 200) {
        expect_json(response, 200, call_body(msg));
      } else {
        const auto line = expect_unavailable(b, response, std::string(mode.reason));
        EXPECT_EQ(value(line, "upstream_status"),
                  mode.upstream_status == 0 ? "(none)" : std::to_string(mode.upstream_status));
      }
      // Redirects lead to where they come from: whoever follows one is here again.
      if (mode.upstream_status != 0) {
        EXPECT_EQ(upstream.requests().size(), requests + 1);
      }
    }
    upstream.set_mode(right_mode());
    expect_right(call(client));
  }
  EXPECT_EQ(get(b.port(), "/health").status, 200);
  EXPECT_EQ(b.stop(), 0);
  EXPECT_EQ(b.process().err(), "");
  return timings;
}

TEST(ServiceBWithAFaultyA, AnswersEachFaultAsItMustInTimeAndIsWellAfterwards) {
  std::array<std::vector<Timing>, 8> timings;
  std::vector<std::thread> workers;
  for (std::size_t i = 0; i < timings.size(); ++i) {
    workers.emplace_back(
        [&, i] { timings[i] = expect_right_verdicts(modes(), i, timings.size()); });
  }
  for (auto& worker : workers) worker.join();
  std::vector<Timing> all;
  for (const auto& each : timings) all.insert(all.end(), each.begin(), each.end());
  EXPECT_EQ(all.size(), 2 * modes().size());
  expect_in_time(all, 1s + 50ms, "all faults");
}

// --- reasons that need no answer of A

TEST(ServiceBReasons, AreToldWhereThereIsNobodyToAsk) {
  const ClosedPort nobody;
  const std::vector<std::array<std::string, 3>> rows{
      {"connection_refused", nobody.url(),
       "nobody listens for service-a at 127.0.0.1:" + std::to_string(nobody.port())},
      // Linux refuses a TCP connection to the broadcast address, and sends nothing: connect(2).
      {"unreachable", "http://255.255.255.255:80",
       "service-a at 255.255.255.255:80 cannot be reached (Network is unreachable)"},
      // RFC 1035 allows 63 characters between dots, so that no name server is asked.
      {"dns_failure", "http://" + std::string(64, 'a') + ".invalid:8080", ""},
      {"dns_failure", "http://a..b:8080", ""},
      {"dns_failure", "http://[fe80::1%25x]:8080",
       "the name of service-a at [fe80::1%x]:8080 does not resolve (Name or service not known)"}};
  for (const auto& [reason, url, sentence] : rows) {
    auto b = start_b(url);
    const auto line = expect_unavailable(b, get(b.port(), kCall), reason);
    if (!sentence.empty()) {
      EXPECT_EQ(value(line, "error"), sentence);
    }
    const auto head = get(b.port(), kCall, {}, kPatience, "HEAD");
    EXPECT_EQ(head.status, 503) << reason << head.error;
    EXPECT_EQ(head.body, "") << reason;
    EXPECT_FALSE(head.header("connection")) << "the client did nothing wrong";
    EXPECT_EQ(value(line_of(b.process(), head), "reason"), reason);
    expect_json(get(b.port(), "/health"), 200, kOk);
    expect_json(get(b.port(), "/ready"), 200, kOk);
  }
}

TEST(ServiceBReasons, TimeoutWhenConnectionsAreNotAccepted) {
  const Listener listener(0);
  std::vector<Connection> backlog;  // full: the kernel lets further connections wait
  do {
    backlog.emplace_back(listener.port(), ConnectionOptions{.connect_timeout = 200ms});
  } while (backlog.back().connected() && backlog.size() < 10);
  ASSERT_FALSE(backlog.back().connected());
  auto b = start_b(listener.url(), {kTimeoutFlag});
  expect_unavailable(b, get(b.port(), kCall), "timeout");
}

TEST(ServiceBReasons, OverloadedWhenAsManyCallsWaitAsMay) {
  for (const std::size_t most : {1U, 2U}) {  // and 64 unless told otherwise: in_time_test.cpp
    FaultyUpstream upstream(mode_named("silent"));
    auto b =
        start_b(upstream.url(), {"--timeout=60s", "--max-upstream-calls=" + std::to_string(most)});
    const auto waiting = connect_and_send(b.port(), most, request_text(kCall));
    ASSERT_TRUE(eventually([&] { return upstream.requests().size() == most; })) << most;
    expect_unavailable(b, get(b.port(), kCall), "overloaded");
    EXPECT_EQ(upstream.connections(), most);
  }
}

// --- connections to A: kept, tried again, renewed

TEST(ServiceB, KeepsTheConnectionToA) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  Connection client(b.port());
  for (int i = 0; i < 20; ++i) expect_right(call(client));
  EXPECT_EQ(upstream.connections(), 1U);
  EXPECT_EQ(upstream.requests().size(), 20U);
}

TEST(ServiceB, TriesAgainOnceWhenAKeptConnectionWasClosedUnderIt) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  Connection client(b.port());
  expect_right(call(client));
  upstream.set_mode(mode_named("close-after-request"));
  // Once on the kept connection and once on a new one.
  expect_unavailable(b, call(client), "connection_closed");
  EXPECT_EQ(upstream.requests().size(), 3U);
  EXPECT_EQ(upstream.connections(), 2U);
  // A new connection that is closed is not tried again.
  expect_unavailable(b, call(client), "connection_closed");
  EXPECT_EQ(upstream.requests().size(), 4U);
}

TEST(ServiceB, DoesNotTryAgainWhatTimedOutOrWasAnsweredInPart) {
  for (const auto& [mode, reason] :
       std::vector<std::pair<std::string, std::string>>{{"silent", "timeout"},
                                                        {"half-body", "timeout"},
                                                        {"cut-in-status-line", "connection_closed"},
                                                        {"cut-in-body", "connection_closed"},
                                                        {"reset-in-body", "connection_closed"},
                                                        {"status-503", "bad_status"},
                                                        {"not-json", "bad_response"}}) {
    SCOPED_TRACE(mode);
    FaultyUpstream upstream(right_mode());
    auto b = start_b(upstream.url(), {kTimeoutFlag});
    Connection client(b.port());
    expect_right(call(client));
    upstream.set_mode(mode_named(mode));
    expect_unavailable(b, call(client), reason);
    EXPECT_EQ(upstream.requests().size(), 2U);
    EXPECT_EQ(upstream.connections(), 1U);
  }
}

TEST(ServiceB, LosesNoCallWhenAIsStartedAgain) {
  for (const int signal : {SIGTERM, SIGKILL}) {
    const std::vector<std::string> flags{"--port=" + std::to_string(lasting_port()),
                                         "--delay=100ms"};
    auto a = std::make_unique<Service>(kServiceA, flags);
    auto b = start_b(a->url(), {"--timeout=30s"});
    // Several kept connections, all of which the end of A makes stale.
    const auto call_in_parallel = [&b] {
      time_at_once(8, [&b](std::size_t) { expect_right(get(b.port(), kCall)); });
    };
    call_in_parallel();
    for (int round = 0; round < 3; ++round) {
      a->process().signal(signal);
      ASSERT_TRUE(a->process().wait(kPatience));
      a = std::make_unique<Service>(kServiceA, flags);
      call_in_parallel();
    }
  }
}

}  // namespace
}  // namespace tests
