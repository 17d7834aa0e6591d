#include <netinet/in.h>
#include <sys/socket.h>

#include "integration/harness.hpp"
#include "support/network.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

struct Check : EachService {
  static std::string port_flag(std::uint16_t port) { return "--port=" + std::to_string(port); }

  void expect_unhealthy(std::uint16_t port, const std::string& why) const {
    // A parent may have blocked the signal of the time limit.
    const auto result = run("env", {"--block-signal=ALRM", binary, "--check", port_flag(port)});
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err, GetParam() + ": not healthy at 127.0.0.1:" + std::to_string(port) + ": " +
                              why + "\n");
  }
};

TEST_P(Check, AServiceThatRunsIsHealthyByFlagsAndByEnvironment) {
  for (const std::string host : {"127.0.0.1", "0.0.0.0", "localhost"}) {
    SCOPED_TRACE(host);
    Service service(binary, {"--host=" + host});
    const auto port = std::to_string(service.port());
    for (const auto& result :
         {run(binary, {"--check", "--host=" + host, "--port=" + port}),
          run(binary, {"--check"}, {.environment = {"HOST=" + host, "PORT=" + port}})}) {
      EXPECT_EQ(result.code, 0) << result.err;
      EXPECT_EQ(result.out + result.err, "");
    }
    EXPECT_EQ(value(line_with(service.process(), "endpoint", "/health"), "status"), "200");
  }
}

TEST_P(Check, WhatDoesNotAnswerAsItShouldIsNot) {
  expect_unhealthy(ClosedPort().port(), "cannot connect");
  for (const auto& [mode, why] :
       std::map<std::string, std::string>{{"status-500", "status 500"},
                                          {"close-after-request", "no HTTP answer"},
                                          {"tls-alert", "no HTTP answer"}}) {
    SCOPED_TRACE(mode);
    expect_unhealthy(FaultyUpstream(mode_named(mode)).port(), why);
  }
}

TEST_P(Check, TakesTwoSecondsAtMost) {
  for (const std::string mode : {"silent", "dripped-head", "dripped-body"}) {
    SCOPED_TRACE(mode);
    FaultyUpstream upstream(mode_named(mode));
    const auto timings = time_at_once(
        5, [&](std::size_t) { expect_unhealthy(upstream.port(), "no answer within 2s"); });
    expect_in_time(timings, 2s + 200ms, mode);  // which has to start and to end as well
  }
}

TEST_P(Check, EndsAtASignal) {
  const FaultyUpstream hung(mode_named("silent"));
  Process check({binary, "--check", port_flag(hung.port())});
  ASSERT_TRUE(eventually([&] { return hung.connections() == 1; }));
  check.signal(SIGINT);
  EXPECT_EQ(check.wait(1s), 128 + SIGINT);  // by itself it would take two seconds
}

TEST_P(Check, GoesOnToTheSecondAddressWhereTheFirstSaysNothing) {
  if (!has_ipv6()) GTEST_SKIP() << "there is no IPv6 here";
  Service service(binary);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(service.port());
  address.sin6_addr = in6addr_loopback;
  const auto* loopback = reinterpret_cast<const sockaddr*>(&address);
  const auto socket = [] {
    const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    return UniqueFd(check(::socket(AF_INET6, type, 0), "socket"));
  };
  const UniqueFd silent = socket();
  check(::bind(silent.get(), loopback, sizeof address), "bind");
  check(::listen(silent.get(), 0), "listen");
  std::vector<UniqueFd> backlog;  // full: the kernel lets further connections wait
  for (int i = 0; i < 4; ++i) {
    backlog.push_back(socket());
    ::connect(backlog.back().get(), loopback, sizeof address);
  }
  const auto result = run(binary, {"--check", "--host=::", port_flag(service.port())});
  EXPECT_EQ(result.code, 0) << result.err;
  const auto alone = run(binary, {"--check", "--host=::1", port_flag(service.port())});
  EXPECT_NE(alone.err.find(": cannot connect\n"), std::string::npos) << alone.err;
}

INSTANTIATE_TEST_SUITE_P(Of, Check, testing::Values("service-a", "service-b"), service_name);

}  // namespace
}  // namespace tests
