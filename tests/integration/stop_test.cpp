#include <signal.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "integration/harness.hpp"
#include "support/name_server.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::vector<int> kStopSignals{SIGTERM, SIGINT, SIGHUP};

// The children of a process, those that nobody has waited for included.
std::vector<pid_t> children(pid_t pid) {
  const auto id = std::to_string(pid);
  std::ifstream file("/proc/" + id + "/task/" + id + "/children");
  return {std::istream_iterator<pid_t>(file), std::istream_iterator<pid_t>()};
}

// Once as usual, and once as process 1 of a pid namespace, as in a container: there the kernel
// drops each signal whose action is the default one. See pid_namespaces(7). It has a /proc of its
// own, in which the leak sanitizer finds the right threads.
struct Stop : testing::TestWithParam<std::tuple<std::string, bool>> {
  const bool is_a = std::get<0>(GetParam()) == "service-a";
  const bool is_process_1 = std::get<1>(GetParam());
  const std::string binary = is_a ? kServiceA : kServiceB;

  void SetUp() override {
    if (is_process_1 && run("unshare", {"--pid", "--fork", "--mount-proc", "true"}).code != 0) {
      GTEST_SKIP() << "no pid namespace can be made here";
    }
  }

  // Service A, or a Service B that finds nobody where it looks for A.
  Service start(std::vector<std::string> flags = {}) {
    if (!is_a) flags.push_back("--service-a-url=" + nobody_.url());
    if (!is_process_1) return Service(binary, std::move(flags));
    const std::string entry_point = "false & exec \"$0\" \"$@\"";  // leaves a child that has ended
    std::vector<std::string> all{"--pid", "--fork",    "--mount-proc", "--kill-child", "sh",
                                 "-c",    entry_point, binary,         "--port=0"};
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
    ASSERT_EQ(get(service.port(), "/health").status, 200);
    // Two at the same time, as systemd sends them where SendSIGHUP=yes.
    for (const int each : {SIGSTOP, number, SIGHUP, SIGCONT}) signal(service, each);
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
  for (const int number : {SIGTERM, SIGINT}) {
    SCOPED_TRACE(::strsignal(number));
    auto service = start({"--drain-delay=60s"});
    Connection kept(service.port());
    ask(kept, kHealth);
    signal(service, SIGTERM);
    ASSERT_TRUE(eventually([&] { return get(service.port(), "/ready").status == 503; }));
    signal(service, SIGHUP);  // changes nothing
    const auto ready = get(service.port(), "/ready");
    expect_json(ready, 503, "{\"status\":\"draining\"}\n");
    EXPECT_EQ(ready.header("connection"), "close");
    for (const auto& [target, status] :
         std::vector<std::pair<std::string, int>>{{"/health", 200},
                                                  {"/metrics", 200},
                                                  {is_a ? "/echo" : kCall, is_a ? 200 : 503},
                                                  {"/nope", 404}}) {
      SCOPED_TRACE(target);
      const auto result = get(service.port(), target);
      EXPECT_EQ(result.status, status);
      EXPECT_EQ(result.header("connection"), "close");
    }
    // A connection from before the signal is served once more, and told.
    const auto last = ask(kept, kHealth);
    EXPECT_EQ(last.status, 200);
    expect_last(kept, last);

    signal(service, number);
    EXPECT_EQ(service.process().wait(5s), 128 + number);
  }
}

TEST_P(Stop, IsNotCausedByOtherSignalsNorByOrphans) {
  auto service = start();
  for (const int number : {SIGUSR1, SIGUSR2, SIGPIPE, SIGCHLD}) {
    signal(service, number);
    EXPECT_EQ(get(service.port(), "/health").status, 200) << ::strsignal(number);
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
  EXPECT_EQ(get(service.port(), "/health").status, 200);
  EXPECT_EQ(service.stop(), 0);
}

TEST(StopWithWork, IdleConnectionsAreClosedAtOnceAndNewOnesRefused) {
  auto a = start_a({"--delay=60s"});  // a request to /echo keeps it from ending
  Connection busy(a.port());
  busy.send(request_text("/echo"));
  auto fresh = connect_and_send(a.port(), 8, "");  // on all threads
  auto used = connect_and_send(a.port(), 8, kHealth);
  for (auto& each : used) EXPECT_EQ(ask(each, "").status, 200);
  ASSERT_TRUE(eventually([&] { return sample(a.port(), "http_server_open_connections") >= 17; }));
  a.process().signal(SIGTERM);
  for (auto* idle : {&fresh, &used}) {
    for (auto& each : *idle) EXPECT_TRUE(each.closed_by_peer(2s));
  }
  EXPECT_TRUE(eventually([&] { return !Connection(a.port()).connected(); }));
  EXPECT_FALSE(busy.closed_by_peer(100ms));
  EXPECT_TRUE(a.process().running());
}

TEST(StopWithWork, ARequestUnderWayIsAnsweredAndToldThatTheConnectionEnds) {
  auto a = start_a({"--delay=1s"});
  auto b = start_b(a.url(), {"--timeout=30s"});
  Connection client_of_a(a.port());
  Connection client_of_b(b.port());
  client_of_a.send(request_text("/echo?msg=hello"));
  client_of_b.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] {  // both requests, and this one
    return sample(a.port(), "http_server_active_requests") == 3;
  }));
  for (auto* service : {&a, &b}) service->process().signal(SIGTERM);
  for (auto* service : {&a, &b}) {
    auto& client = service == &a ? client_of_a : client_of_b;
    const auto response = ask(client, "");
    expect_json(response, 200, service == &a ? echo_body("hello") : call_body("hello"));
    expect_last(client, response);
    EXPECT_EQ(service->process().wait(kPatience), 0);
    EXPECT_EQ(value(line_with(service->process(), "msg", "stopped"), "level"), "info");
    EXPECT_EQ(value(line_of(service->process(), response), "status"), "200");
  }
}

TEST(StopWithWork, AClientThatReadsNothingDoesNotHoldItUp) {
  auto a = start_a({"--drain-timeout=300ms"});
  Connection client(a.port(), ConnectionOptions{.receive_buffer = 4096});
  const auto request = request_text("/echo?msg=" + std::string(8000, 'x'));
  while (client.send(request, 200ms)) {
  }
  EXPECT_EQ(a.stop(), 0);
  EXPECT_TRUE(value(log_lines(a.process()).back(), "msg").starts_with("stopped"));
}

TEST(StopWithWork, ASecondSignalEndsItAtOnce) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s", "--drain-timeout=60s"});
  Connection client(b.port());
  client.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
  b.process().signal(SIGTERM);
  line_with(b.process(), "msg", "stopping");
  EXPECT_FALSE(b.process().wait(200ms));
  b.process().signal(SIGINT);
  EXPECT_EQ(b.process().wait(5s), 128 + SIGINT);
}

TEST(StopWithWork, AReaderOfTheLogThatHangsHoldsNothingUp) {
  Service shell("sh", {"-c",
                       "exec 3>&2; { \"$0\" \"$@\" & echo $! >&3; wait $!; echo code $? >&3; } | "
                       "{ head -n 1; exec sleep 60; }",
                       kServiceA, "--drain-timeout=300ms"});
  Connection client(shell.port());
  ask_often(client, "/nope/" + std::string(300, 'x'), 2'000);  // more than a pipe takes
  ASSERT_TRUE(eventually([&] { return shell.process().err().ends_with("\n"); }));
  const auto pid = std::stoi(shell.process().err());
  ::kill(pid, SIGTERM);
  EXPECT_TRUE(eventually([&] { return shell.process().err().ends_with("code 0\n"); }, 5s))
      << shell.process().err();
  ::kill(pid, SIGKILL);
}

TEST(StopWithWork, NoLineIsLost) {
  auto a = start_a();
  time_at_once(8, [&](std::size_t client) {
    Connection connection(a.port());
    ask_often(connection, "/" + std::to_string(client), 500);
  });
  ASSERT_EQ(a.stop(), 0);
  std::map<std::string, int> seen;
  for (const auto& line : request_lines(a.process())) ++seen[value(line, "endpoint")];
  EXPECT_EQ(seen.size(), 8U);
  for (const auto& [endpoint, count] : seen) EXPECT_EQ(count, 500) << endpoint;
}

TEST(StopWithWork, AtTheDrainTimeoutItEndsAndSaysSoAndNoLineIsLost) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b(upstream.url(), {"--timeout=60s", "--drain-timeout=1ms"});
  Connection busy(b.port());
  busy.send(request_text(kCall));
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 1; }));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(get(b.port(), "/health").status, 200);
  ASSERT_EQ(b.stop(), 0);
  EXPECT_TRUE(busy.closed_by_peer());
  EXPECT_EQ(request_lines(b.process()).size(), 100U);
  const auto last = log_lines(b.process()).back();
  EXPECT_EQ(value(last, "level"), "warn");  // this was no ordinary stop
  EXPECT_TRUE(value(last, "msg").starts_with("stopped")) << value(last, "msg");
  EXPECT_EQ(value(last, "requests"), "1");
}

TEST(StopWithoutWork, IsAnOrdinaryOneThoughItHasNoTime) {
  for (int i = 0; i < 5; ++i) {
    auto a = start_a({"--drain-timeout=0s"});
    ASSERT_EQ(a.stop(), 0);
    EXPECT_EQ(value(log_lines(a.process()).back(), "level"), "info");
  }
}

TEST(StopAtTheStart, DoesNotWaitForTheLookUpOfTheHost) {
  const auto why = in_private_network([](const PrivateEtc&) {
    NameServer silent([](const std::string&) { return std::string(); }, 53);
    Process service({kServiceA, "--host=late.test", "--port=0"});
    ASSERT_TRUE(eventually([&] { return silent.queries() > 0; }, kPatience));
    service.signal(SIGTERM);
    // The thread sanitizer holds the signal back until the look-up has ended.
    EXPECT_EQ(service.wait(kSanitized ? kPatience : 1s), 0);
  });
  if (why) GTEST_SKIP() << *why;
}

}  // namespace
}  // namespace tests
