#include <signal.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::string kCall = "/call-echo?msg=hello";

const std::vector<int> kStopSignals{SIGTERM, SIGINT, SIGHUP};

// The children of a process, those that nobody has waited for included.
std::vector<pid_t> children(pid_t pid) {
  const auto id = std::to_string(pid);
  std::ifstream file("/proc/" + id + "/task/" + id + "/children");
  return {std::istream_iterator<pid_t>(file), std::istream_iterator<pid_t>()};
}

// Once as usual, and once as process 1 of a pid namespace, as in a container: there the kernel
// drops each signal whose action is the default one. See pid_namespaces(7).
struct Stop : testing::TestWithParam<std::tuple<std::string, bool>> {
  const bool is_a = std::get<0>(GetParam()) == "service-a";
  const bool is_process_1 = std::get<1>(GetParam());
  const std::string binary = is_a ? kServiceA : kServiceB;

  void SetUp() override {
    if (is_process_1 && run("unshare", {"--pid", "--fork", "true"}).code != 0) {
      GTEST_SKIP() << "no pid namespace can be made here";
    }
  }

  // Service A, or a Service B that finds nobody where it looks for A.
  Service start(std::vector<std::string> flags = {}) {
    if (!is_a) flags.push_back("--service-a-url=" + nobody_.url());
    if (!is_process_1) return Service(binary, std::move(flags));
    std::vector<std::string> all{"--pid", "--fork", "--kill-child", binary, "--port=0"};
    all.insert(all.end(), flags.begin(), flags.end());
    return Service("unshare", std::move(all));
  }

  pid_t pid_of(Service& service) const {
    return is_process_1 ? children(service.process().pid()).at(0) : service.process().pid();
  }
  void signal(Service& service, int number) { ASSERT_EQ(::kill(pid_of(service), number), 0); }

 private:
  ClosedPort nobody_;
};

TEST_P(Stop, EndsWithCode0AndALine) {
  for (const int number : kStopSignals) {
    SCOPED_TRACE(::strsignal(number));
    auto service = start();
    ASSERT_EQ(get(service.port(), "/health").status(), 200);
    signal(service, number);
    EXPECT_EQ(service.process().wait(kPatience), 0);
    EXPECT_EQ(service.process().err(), "");
    EXPECT_TRUE(service.process().out().ends_with("\n"));
    const auto lines = log_lines(service.process());
    ASSERT_EQ(lines.size(), 4U) << service.process().out();
    EXPECT_EQ(value(lines[0], "msg"), "listening");
    EXPECT_EQ(value(lines[1], "endpoint"), "/health");
    EXPECT_EQ(value(lines[2], "msg"), "stopping");
    EXPECT_EQ(value(lines[2], "signal"), std::string("SIG") + ::sigabbrev_np(number));
    EXPECT_EQ(value(lines[3], "msg"), "stopped");
    for (const auto& line : lines) EXPECT_EQ(value(line, "level"), "info");
  }
}

TEST_P(Stop, ServesOnButNotReadyDuringTheDrainDelayUntilASecondSignalEndsItAtOnce) {
  for (const int number : kStopSignals) {
    SCOPED_TRACE(::strsignal(number));
    auto service = start({"--drain-delay=60s"});
    Connection kept(service.port());
    kept.send(request_text("/health"));
    ASSERT_TRUE(kept.read_response());

    signal(service, SIGTERM);
    ASSERT_TRUE(eventually([&] { return get(service.port(), "/ready").status() == 503; }));
    const auto ready = get(service.port(), "/ready");
    expect_json(ready, 503, "{\"status\":\"draining\"}\n");
    EXPECT_EQ(ready.response->header("connection"), "close");
    for (const auto& [target, status] :
         std::vector<std::pair<std::string, int>>{{"/health", 200},
                                                  {"/metrics", 200},
                                                  {is_a ? "/echo" : kCall, is_a ? 200 : 503},
                                                  {"/nope", 404}}) {
      SCOPED_TRACE(target);
      const auto result = get(service.port(), target);
      ASSERT_EQ(result.status(), status);
      EXPECT_EQ(result.response->header("connection"), "close");
    }
    // A connection from before the signal is served once more, and told.
    kept.send(request_text("/health"));
    const auto last = kept.read_response();
    ASSERT_TRUE(last) << kept.error();
    EXPECT_EQ(last->status, 200);
    EXPECT_EQ(last->header("connection"), "close");
    EXPECT_TRUE(kept.closed_by_peer());

    signal(service, number);
    EXPECT_EQ(service.process().wait(5s), 128 + number);
  }
}

TEST_P(Stop, TakesTheDrainDelayAndNoLonger) {
  auto service = start({"--drain-delay=300ms"});
  const auto start = Clock::now();
  signal(service, SIGTERM);
  EXPECT_EQ(service.process().wait(kPatience), 0);
  EXPECT_GE(Clock::now() - start, 300ms);
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST_P(Stop, IsNotCausedByOtherSignalsNorByOrphans) {
  auto service = start();
  for (const int number : {SIGUSR1, SIGUSR2, SIGPIPE, SIGCHLD}) {
    signal(service, number);
    EXPECT_EQ(get(service.port(), "/health").status(), 200) << ::strsignal(number);
  }
  if (is_process_1) {  // whose children orphans become
    const auto pid = pid_of(service);
    run("nsenter", {"--target=" + std::to_string(pid), "--pid", "sh", "-c", "sleep 60 >&- 2>&- &"});
    ASSERT_TRUE(eventually([&] { return children(pid).size() == 1; }));
    ::kill(children(pid).at(0), SIGKILL);
    EXPECT_TRUE(eventually([&] { return children(pid).empty(); }, 5s)) << "a zombie is left";
  }
  signal(service, SIGTERM);
  EXPECT_EQ(service.process().wait(kPatience), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Of, Stop, testing::Combine(testing::Values("service-a", "service-b"), testing::Bool()),
    [](const auto& test) {
      return std::string(std::get<0>(test.param) == "service-a" ? "ServiceA" : "ServiceB") +
             (std::get<1>(test.param) ? "AsProcess1" : "");
    });

TEST(StopOfAService, IsNotCausedByAHangUpUnderNohup) {
  Service service("sh", {"-c", "trap '' HUP; exec \"$0\" \"$@\"", kServiceA, "--port=0"});
  service.process().signal(SIGHUP);
  EXPECT_EQ(get(service.port(), "/health").status(), 200);
  EXPECT_EQ(service.stop(), 0);
}

TEST(StopWithWork, IdleConnectionsAreClosedAtOnceAndNewOnesRefused) {
  auto a = start_a({"--delay=60s"});  // a request to /echo keeps it from ending
  Connection busy(a.port());
  Connection idle(a.port());
  Connection fresh(a.port());  // never sent anything
  busy.send(request_text("/echo"));
  idle.send(request_text("/health"));
  ASSERT_TRUE(idle.read_response());
  ASSERT_TRUE(
      eventually([&] { return sample(metrics_of(a.port()), "http_server_active_requests") == 2; }));

  a.process().signal(SIGTERM);
  EXPECT_TRUE(idle.closed_by_peer(2s));
  EXPECT_TRUE(fresh.closed_by_peer(2s));
  EXPECT_TRUE(eventually([&] { return !Connection(a.port()).connected(); }));
  EXPECT_FALSE(busy.closed_by_peer(100ms));
  EXPECT_TRUE(a.process().running());
}

TEST(StopWithWork, ARequestUnderWayIsAnswered) {
  auto a = start_a({"--delay=1s"});
  auto b = start_b(a.url(), {"--timeout=30s"});
  Connection client_of_a(a.port());
  Connection client_of_b(b.port());
  client_of_a.send(request_text("/echo?msg=hello"));
  client_of_b.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] {  // both requests, and this one
    return sample(metrics_of(a.port()), "http_server_active_requests") == 3;
  }));

  for (auto* service : {&a, &b}) service->process().signal(SIGTERM);
  const auto from_a = client_of_a.read_response(kPatience);
  const auto from_b = client_of_b.read_response(kPatience);
  ASSERT_TRUE(from_a) << client_of_a.error();
  ASSERT_TRUE(from_b) << client_of_b.error();
  expect_json(*from_a, 200, "{\"echo\":\"hello\"}\n");
  expect_json(*from_b, 200, "{\"service_a\":{\"echo\":\"hello\"},\"service_b\":\"ok\"}\n");
  EXPECT_TRUE(client_of_a.closed_by_peer());
  EXPECT_TRUE(client_of_b.closed_by_peer());
  for (auto* service : {&a, &b}) {
    EXPECT_EQ(service->process().wait(kPatience), 0);
    EXPECT_EQ(value(line_with(service->process(), "msg", "stopped"), "level"), "info");
  }
  EXPECT_EQ(value(line_of(a.process(), *from_a), "status"), "200");
  EXPECT_EQ(value(line_of(b.process(), *from_b), "status"), "200");
}

TEST(StopWithWork, TheAnswerToARequestUnderWaySaysThatTheConnectionEnds) {
  FaultyUpstream upstream(mode_named("slow-head"));
  auto b = start_b(upstream.url(), {"--timeout=30s"});
  Connection client(b.port());
  client.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
  b.process().signal(SIGTERM);
  ASSERT_TRUE(b.process().wait_for_output("stopping", kPatience));
  const auto response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->header("connection"), "close");
}

TEST(StopWithWork, TheDrainTimeoutBoundsIt) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s", "--drain-timeout=300ms"});
  Connection client(b.port());
  client.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
  const auto start = Clock::now();
  b.process().signal(SIGTERM);
  EXPECT_EQ(b.process().wait(kPatience), 0);
  EXPECT_GE(Clock::now() - start, 300ms);
  EXPECT_LT(Clock::now() - start, 5s);
  EXPECT_TRUE(client.closed_by_peer());
  // It says so: the last line tells that this was no ordinary stop.
  const auto last = log_lines(b.process()).back();
  EXPECT_EQ(value(last, "level"), "warn");
  EXPECT_TRUE(value(last, "msg").starts_with("stopped")) << value(last, "msg");
}

TEST(StopWithWork, AClientThatReadsNothingDoesNotHoldItUp) {
  auto a = start_a({"--drain-timeout=300ms"});
  Connection client(a.port(), ConnectionOptions{.receive_buffer = 4096});
  const auto request = request_text("/echo?msg=" + std::string(8000, 'x'));
  while (client.send(request, 200ms)) {
  }
  a.process().signal(SIGTERM);
  EXPECT_EQ(a.process().wait(kPatience), 0);
  EXPECT_TRUE(value(log_lines(a.process()).back(), "msg").starts_with("stopped"));
}

TEST(StopWithWork, ASecondSignalEndsItAtOnce) {
  for (const int number : kStopSignals) {
    SCOPED_TRACE(::strsignal(number));
    FaultyUpstream upstream(mode_named("silent"));
    auto b = start_b(upstream.url(), {"--timeout=60s", "--drain-timeout=60s"});
    Connection client(b.port());
    client.send(request_text(kCall));
    ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
    b.process().signal(SIGTERM);
    ASSERT_TRUE(b.process().wait_for_output("stopping", kPatience));
    EXPECT_FALSE(b.process().wait(200ms));
    b.process().signal(number);
    EXPECT_EQ(b.process().wait(5s), 128 + number);
  }
}

// A service whose log goes to `reader`, a shell command. Says "pid <pid>" and, at the end, "code
// <code>" on the shell's stderr; what `reader` writes is on its stdout.
std::vector<std::string> with_log_reader(const std::string& reader) {
  return {"sh", "-c",
          "exec 3>&2; { \"$0\" --port=0 --drain-timeout=300ms & echo pid $! >&3; wait $!; "
          "echo code $? >&3; } | { " +
              reader + "; }",
          kServiceA};
}

TEST(StopWithWork, AReaderOfTheLogThatEndsHarmsNothing) {
  Process shell(with_log_reader("head -n 1"));
  ASSERT_TRUE(shell.wait_for_output("listening", kPatience));
  const auto port = listening_port(shell.out());
  ASSERT_TRUE(port);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(get(*port, "/health").status(), 200);
  ASSERT_TRUE(shell.wait_for_error("\n", kPatience));
  ::kill(std::stoi(shell.err().substr(4)), SIGTERM);
  EXPECT_TRUE(shell.wait_for_error("code 0\n", kPatience)) << shell.err();
}

TEST(StopWithWork, AReaderOfTheLogThatHangsHoldsNothingUp) {
  Process shell(with_log_reader("head -n 1; exec sleep 60"));
  ASSERT_TRUE(shell.wait_for_output("listening", kPatience));
  const auto port = listening_port(shell.out());
  ASSERT_TRUE(port);
  Connection client(*port);
  std::string all;
  for (int i = 0; i < 100; ++i) all += request_text("/nope/" + std::string(300, 'x'));
  for (int round = 0; round < 20; ++round) {  // more than a pipe takes
    ASSERT_TRUE(client.send(all));
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(client.read_response()) << client.error();
  }
  ASSERT_TRUE(shell.wait_for_error("\n", kPatience));
  const auto pid = std::stoi(shell.err().substr(4));
  ::kill(pid, SIGTERM);
  EXPECT_TRUE(shell.wait_for_error("code 0\n", 5s)) << shell.err();
  ::kill(pid, SIGKILL);
}

TEST(StopWithWork, NoLineIsLost) {
  for (const std::string format : {"logfmt", "json"}) {
    auto a = start_a({"--log-format=" + format});
    Connection client(a.port());
    constexpr int kRequests = 2'000;
    std::string all;
    for (int i = 0; i < kRequests; ++i) {
      all += request_text("/nope/" + std::to_string(i));
      if (all.size() < 60'000) continue;
      ASSERT_TRUE(client.send(all));
      all.clear();
    }
    ASSERT_TRUE(client.send(all));
    for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(client.read_response()) << client.error();
    a.process().signal(SIGTERM);
    ASSERT_EQ(a.process().wait(kPatience), 0);
    const auto lines = request_lines(a.process());
    ASSERT_EQ(lines.size(), 2'000U);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      ASSERT_EQ(value(lines[i], "endpoint"), "/nope/" + std::to_string(i));
    }
  }
}

TEST(StopWithWork, NoLineIsLostAtTheDrainTimeout) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s", "--drain-timeout=1ms"});
  Connection busy(b.port());
  busy.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(get(b.port(), "/health").status(), 200);
  b.process().signal(SIGTERM);
  ASSERT_EQ(b.process().wait(kPatience), 0);
  EXPECT_EQ(request_lines(b.process()).size(), 100U);
}

// Whoever connects and says nothing does not hold up the end, on whichever thread it is.
TEST(StopOfAService, DoesNotWaitForClientsThatHaveNotAskedYet) {
  auto a = start_a();
  std::vector<Connection> silent;
  for (int i = 0; i < 8; ++i) silent.emplace_back(a.port());
  EXPECT_TRUE(
      eventually([&] { return sample(metrics_of(a.port()), "http_server_open_connections") >= 8; },
                 kPatience));
  const auto start = Clock::now();
  EXPECT_EQ(a.stop(), 0);
  EXPECT_LT(Clock::now() - start, 3s);  // of ten that they may have
}

}  // namespace
}  // namespace tests
