#include <filesystem>
#include <fstream>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

constexpr auto kBudget = 300ms;
constexpr auto kAnswerWithin = kBudget + 50ms;  // the contract's word
const std::string kTimeoutFlag = "--timeout=300ms";

const std::string kCall = "/call-echo?msg=hello";
const std::string kCallBody = "{\"service_a\":{\"echo\":\"hello\"},\"service_b\":\"ok\"}\n";

// That `result` is the 503 for `reason`, in its answer and in its log line, which is returned.
LogLine expect_unavailable(Service& b, const Result& result, std::string_view reason) {
  if (!result.response) {
    ADD_FAILURE() << "no answer: " << result.error;
    return {};
  }
  const auto& response = *result.response;
  const auto json = response.json();
  if (response.status != 503 || !json.is_object()) {
    ADD_FAILURE() << "not a 503: " << response.head << response.body;
    return {};
  }
  EXPECT_EQ(json.value("reason", ""), reason) << response.body;
  EXPECT_EQ(json.value("service_a", ""), "unavailable");
  EXPECT_EQ(json.value("service_b", ""), "ok");
  EXPECT_NE(json.value("error", ""), "");
  EXPECT_EQ(json.size(), 4U) << response.body;
  EXPECT_EQ(response.header("retry-after"), "1");
  EXPECT_TRUE(response.header("server-timing"));

  auto line = line_of(b.process(), response);
  EXPECT_EQ(value(line, "level"), "error");
  EXPECT_EQ(value(line, "status"), "503");
  EXPECT_EQ(value(line, "reason"), reason);
  EXPECT_EQ(value(line, "error"), json.value("error", ""));
  return line;
}

// Calls until one answer came within the contract's time; all of them must say `reason`.
void expect_unavailable_in_time(Service& b, std::string_view reason) {
  EXPECT_TRUE(within(kAnswerWithin, [&] {
    const auto result = get(b.port(), kCall);
    expect_unavailable(b, result, reason);
    return result.elapsed;
  })) << reason;
}

// --- every mode of the faulty upstream ---

struct ServiceBWithAFaultyA : testing::TestWithParam<Mode> {};

TEST_P(ServiceBWithAFaultyA, AnswersInTimeAndIsWellAfterwards) {
  const Mode& mode = GetParam();
  FaultyUpstream upstream(mode);
  auto b = start_b(upstream.url(), {kTimeoutFlag});

  // Twice: nothing of the first answer may be taken for the second.
  for (const std::string msg : {"hello", "other \xF0\x9F\x98\x80\"&"}) {
    const auto one_call = [&] {
      const auto result = get(b.port(), "/call-echo?msg=" + percent_encode(msg));
      if (mode.status == 200) {
        const auto body = "{\"service_a\":{\"echo\":" + quoted(msg) + "},\"service_b\":\"ok\"}\n";
        expect_json(result, 200, body);
      } else {
        const auto line = expect_unavailable(b, result, mode.reason);
        EXPECT_EQ(value(line, "upstream_status"),
                  mode.upstream_status == 0 ? "(none)" : std::to_string(mode.upstream_status));
      }
      return result.elapsed;
    };
    EXPECT_TRUE(within(kAnswerWithin, one_call));
  }

  EXPECT_EQ(get(b.port(), "/health").status(), 200);
  upstream.set_mode(right_mode());
  expect_json(get(b.port(), kCall), 200, kCallBody);
}

INSTANTIATE_TEST_SUITE_P(Mode, ServiceBWithAFaultyA,
                         testing::ValuesIn(modes().begin(), modes().end()),
                         [](const auto& test) { return test_name(test.param); });

// --- reasons that need no answer of A ---

TEST(ServiceBReasons, ConnectionRefusedWhenNobodyListens) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url(), {kTimeoutFlag});
  EXPECT_TRUE(within(50ms, [&] {  // the budget is not waited for
    const auto result = get(b.port(), kCall);
    expect_unavailable(b, result, "connection_refused");
    return result.elapsed;
  }));
}

TEST(ServiceBReasons, UnreachableWhenThereIsNoWay) {
  // Linux refuses a TCP connection to the broadcast address, and sends nothing: connect(2).
  auto b = start_b("http://255.255.255.255:80", {kTimeoutFlag});
  expect_unavailable_in_time(b, "unreachable");
}

TEST(ServiceBReasons, DnsFailureWhenTheNameDoesNotResolve) {
  // RFC 1035 allows 63 characters between dots, so that no name server is asked.
  auto b = start_b("http://" + std::string(64, 'a') + ".invalid:8080", {kTimeoutFlag});
  expect_unavailable_in_time(b, "dns_failure");
}

TEST(ServiceBReasons, TimeoutWhenConnectionsAreNotAccepted) {
  // A listener with a full backlog: the kernel lets further ones wait.
  const UniqueFd listener(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  check(::bind(listener.get(), plain, sizeof address), "bind");
  check(::listen(listener.get(), 0), "listen");
  socklen_t size = sizeof address;
  check(::getsockname(listener.get(), plain, &size), "getsockname");
  const auto port = ntohs(address.sin_port);
  std::vector<Connection> waiting;
  do {
    waiting.emplace_back(port, ConnectionOptions{.connect_timeout = 200ms});
  } while (waiting.back().connected() && waiting.size() < 10);
  ASSERT_FALSE(waiting.back().connected());

  auto b = start_b("http://127.0.0.1:" + std::to_string(port), {kTimeoutFlag});
  expect_unavailable_in_time(b, "timeout");
}

TEST(ServiceBReasons, OverloadedWhenTooManyCallsWaitForA) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--max-upstream-calls=2", "--timeout=60s"});
  Connection first(b.port());
  Connection second(b.port());
  first.send(request_text(kCall));
  second.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 2; }, kPatience));

  for (int i = 0; i < 5; ++i) {
    const auto result = get(b.port(), kCall);
    expect_unavailable(b, result, "overloaded");
    EXPECT_LT(result.elapsed, 5s);  // at once, and not after the 60 s
  }
  EXPECT_EQ(upstream.connections(), 2U);
  EXPECT_EQ(get(b.port(), "/health").status(), 200);  // waiting calls hold up nothing else
  EXPECT_EQ(get(b.port(), "/ready").status(), 200);
  EXPECT_FALSE(first.read_response(0ms));
  EXPECT_FALSE(second.read_response(0ms));
}

TEST(ServiceBReasons, HealthIsAnsweredWhileAsManyCallsAsPossibleWait) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s"});
  std::vector<Connection> connections;
  for (int i = 0; i < 64; ++i) {
    connections.emplace_back(b.port());
    connections.back().send(request_text(kCall));
  }
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 64; }, kPatience));
  EXPECT_EQ(get(b.port(), "/health").status(), 200);
  expect_unavailable(b, get(b.port(), kCall), "overloaded");
}

// --- redirects ---

struct ServiceBRedirected : testing::TestWithParam<const char*> {};

TEST_P(ServiceBRedirected, DoesNotFollow) {
  // The modes redirect to their own path, so that whoever follows comes back here.
  FaultyUpstream upstream(mode_named(GetParam()));
  auto b = start_b(upstream.url(), {kTimeoutFlag});
  expect_unavailable(b, get(b.port(), kCall), "bad_status");
  expect_unavailable(b, get(b.port(), kCall), "bad_status");
  const auto requests = upstream.requests();
  EXPECT_EQ(requests.size(), 2U);
  for (const auto& head : requests) EXPECT_TRUE(head.starts_with("GET /echo?msg=hello ")) << head;
}

INSTANTIATE_TEST_SUITE_P(Mode, ServiceBRedirected,
                         testing::Values("status-301", "status-302", "status-307"),
                         [](const auto& test) { return test_name(mode_named(test.param)); });

// --- the real Service A, hanging, killed and started again ---

// SIGSTOP takes effect a moment after it was sent.
void hang(Process& process) {
  process.signal(SIGSTOP);
  const auto tasks = "/proc/" + std::to_string(process.pid()) + "/task";
  ASSERT_TRUE(eventually(
      [&] {
        for (const auto& task : std::filesystem::directory_iterator(tasks)) {
          std::ifstream file(task.path() / "stat");
          std::string text;
          std::getline(file, text);
          if (text.find(") T ") == std::string::npos) return false;
        }
        return true;
      },
      kPatience));
}

TEST(ServiceB, AnswersTimeoutWithinTheBudgetWhenAHangs) {
  auto a = start_a();
  auto b = start_b(a.url(), {kTimeoutFlag});
  expect_json(get(b.port(), kCall), 200, kCallBody);  // the connection to A is there already
  hang(a.process());
  expect_unavailable_in_time(b, "timeout");
  expect_json(get(b.port(), "/health"), 200, "{\"status\":\"ok\"}\n");
  a.process().signal(SIGCONT);
  EXPECT_TRUE(eventually([&] { return get(b.port(), kCall).status() == 200; }, kPatience));
}

TEST(ServiceB, AnswersTimeoutWithinTheBudgetWhenAIsSlow) {
  auto a = start_a({"--delay=60s"});
  auto b = start_b(a.url(), {kTimeoutFlag});
  expect_unavailable_in_time(b, "timeout");
}

TEST(ServiceB, HasABudgetOfOneSecondUnlessToldOtherwise) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url());
  EXPECT_TRUE(within(1050ms, [&] {
    const auto result = get(b.port(), kCall);
    expect_unavailable(b, result, "timeout");
    EXPECT_GE(result.elapsed, 1000ms);
    return result.elapsed;
  }));
}

TEST(ServiceB, PassesOnASlowAnswerWithinTheBudget) {
  auto a = start_a({"--delay=200ms"});
  auto b = start_b(a.url(), {"--timeout=30s"});
  const auto result = get(b.port(), kCall);
  expect_json(result, 200, kCallBody);
  EXPECT_GE(result.elapsed, 200ms);
}

// One client, with all its calls on one connection. Each thread of B has connections to A of its
// own, and this one's calls are all on the same thread.
class Caller {
 public:
  explicit Caller(std::uint16_t port) : connection_(port) {}

  Result call() {
    Result result;
    const auto start = Clock::now();
    connection_.send(request_text(kCall));
    result.response = connection_.read_response(kPatience);
    result.elapsed = std::chrono::duration_cast<milliseconds>(Clock::now() - start);
    result.error = connection_.error();
    return result;
  }

 private:
  Connection connection_;
};

TEST(ServiceB, KeepsTheConnectionToA) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  Caller caller(b.port());
  for (int i = 0; i < 20; ++i) expect_json(caller.call(), 200, kCallBody);
  EXPECT_EQ(upstream.connections(), 1U);
  EXPECT_EQ(upstream.requests().size(), 20U);
}

TEST(ServiceB, TriesAgainOnceWhenAKeptConnectionWasClosedUnderIt) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  Caller caller(b.port());
  expect_json(caller.call(), 200, kCallBody);
  upstream.set_mode(mode_named("close-after-request"));
  // Once on the kept connection and once on a new one.
  expect_unavailable(b, caller.call(), "connection_closed");
  EXPECT_EQ(upstream.requests().size(), 3U);
  EXPECT_EQ(upstream.connections(), 2U);
  // A new connection that is closed is not tried again.
  expect_unavailable(b, caller.call(), "connection_closed");
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
    Caller caller(b.port());
    expect_json(caller.call(), 200, kCallBody);
    upstream.set_mode(mode_named(mode));
    expect_unavailable(b, caller.call(), reason);
    EXPECT_EQ(upstream.requests().size(), 2U);
    EXPECT_EQ(upstream.connections(), 1U);
  }
}

struct ServiceBWhenAIsStartedAgain : testing::TestWithParam<int> {};

TEST_P(ServiceBWhenAIsStartedAgain, LosesNothing) {
  auto a = start_on_lasting_port(kServiceA, {"--delay=100ms"});
  const auto port_flag = "--port=" + std::to_string(a->port());
  auto b = start_b(a->url(), {"--timeout=30s"});
  // Several kept connections, all of which the end of A makes stale.
  const auto call_in_parallel = [&b] {
    std::vector<Connection> connections;
    for (int i = 0; i < 8; ++i) {
      connections.emplace_back(b.port());
      connections.back().send(request_text(kCall));
    }
    for (auto& each : connections) {
      const auto response = each.read_response(kPatience);
      ASSERT_TRUE(response) << each.error();
      expect_json(*response, 200, kCallBody);
    }
  };
  call_in_parallel();
  for (int round = 0; round < 3; ++round) {
    a->process().signal(GetParam());
    ASSERT_TRUE(a->process().wait(kPatience));
    a.reset();
    a = std::make_unique<Service>(kServiceA, std::vector<std::string>{port_flag, "--delay=100ms"});
    call_in_parallel();
  }
}

INSTANTIATE_TEST_SUITE_P(Signal, ServiceBWhenAIsStartedAgain, testing::Values(SIGTERM, SIGKILL),
                         [](const auto& test) {
                           return test.param == SIGTERM ? "AfterACleanStop" : "AfterAKill";
                         });

TEST(ServiceB, SaysConnectionRefusedWhileAIsDownAndRecoversByItself) {
  auto a = start_on_lasting_port(kServiceA);
  const auto port_flag = "--port=" + std::to_string(a->port());
  auto b = start_b(a->url(), {kTimeoutFlag});
  expect_json(get(b.port(), kCall), 200, kCallBody);
  a->process().kill();
  ASSERT_TRUE(a->process().wait(kPatience));
  expect_unavailable(b, get(b.port(), kCall), "connection_refused");
  expect_unavailable(b, get(b.port(), kCall), "connection_refused");
  a.reset();
  Service again(kServiceA, {port_flag});
  expect_json(get(b.port(), kCall), 200, kCallBody);
}

// --- the same faults in a row, in one process ---

TEST(ServiceB, IsWellAfterAllFaultsTogether) {
  FaultyUpstream upstream(random_mode(), {.seed = 42});
  auto b = start_b(upstream.url(), {"--timeout=100ms"});
  std::vector<Connection> connections;
  for (int i = 0; i < 10; ++i) connections.emplace_back(b.port());
  for (int round = 0; round < 10; ++round) {
    for (auto& each : connections) each.send(request_text(kCall));
    for (auto& each : connections) {
      const auto response = each.read_response(kPatience);
      ASSERT_TRUE(response) << each.error();
      if (response->status == 200) {
        EXPECT_EQ(response->body, kCallBody);
      } else {
        EXPECT_EQ(response->status, 503);
      }
    }
  }
  upstream.set_mode(right_mode());
  expect_json(get(b.port(), kCall), 200, kCallBody);
  EXPECT_EQ(b.stop(), 0);
  EXPECT_EQ(request_lines(b.process()).size(), 101U);
}

}  // namespace
}  // namespace tests
