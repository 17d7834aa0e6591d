// Clients that idle, drip, flood, never read or give up in the middle: none of them may hold up the
// others.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <iostream>
#include <thread>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

// Beside thousands of clients, which share the processors with the service.
constexpr auto kQuick = 50ms;

// Calls of /health, half of them on new connections, one after the other: 50, and more until
// `done`.
std::vector<Timing> time_health(
    std::uint16_t port, const std::function<bool()>& done = [] { return true; }) {
  std::vector<Timing> timings;
  Connection kept(port);
  Control control;
  while (timings.size() < 50 || !done()) {
    timings.push_back(control.time([&] {
      std::optional<Connection> fresh;
      if (timings.size() % 2 == 0) fresh.emplace(port);
      EXPECT_EQ(ask(fresh ? *fresh : kept, kHealth).status, 200) << timings.size();
    }));
  }
  return timings;
}

double cpu_seconds(pid_t pid) {
  clockid_t clock{};
  timespec used{};
  EXPECT_EQ(::clock_getcpuclockid(pid, &clock), 0);
  EXPECT_EQ(::clock_gettime(clock, &used), 0);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

std::vector<Connection> connect(std::uint16_t port, std::size_t count,
                                const ConnectionOptions& options = {}) {
  // As many as this process may have: it takes the limit of open files as high as it goes.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const auto room = static_cast<std::size_t>(std::min<rlim_t>(files.rlim_cur, 1'000'000)) - 300;
  if (room < count) std::cout << "only " << room << " connections, for the file limit\n";
  std::vector<Connection> connections;
  for (std::size_t i = 0; i < std::min(room, count); ++i) {
    connections.emplace_back(port, options);
    EXPECT_TRUE(connections.back().connected()) << i << ": " << connections.back().error();
  }
  return connections;
}

TEST(HostileClients, ThatIdleByTheThousandsSlowNobodyDownAndCostLittleMemory) {
  for_both({}, [](Tested& tested) {
    const auto pid = tested.service.process().pid();
    for (int i = 0; i < 50; ++i) EXPECT_EQ(get(tested.port(), "/health").status, 200);
    const auto before = rss_kib(pid);
    auto idle = connect(tested.port(), 3'000);
    // Long enough to need a buffer, which must not be kept.
    const auto request = request_text("/health", "GET", "X: " + std::string(6'000, 'x') + "\r\n");
    for (auto& each : idle) ASSERT_EQ(ask(each, request).status, 200);
    const auto bytes =
        static_cast<double>(rss_kib(pid) - before) * 1024 / static_cast<double>(idle.size());
    if (!kSanitized) {  // whose allocator is not ours to judge
      EXPECT_LT(bytes, 1024);
    }
    expect_in_time(time_health(tested.port()), kQuick, "/health beside idle connections");
    // They are not forgotten.
    for (std::size_t i = 0; i < idle.size(); i += 100) EXPECT_EQ(ask(idle[i], kHealth).status, 200);
  });
}

TEST(HostileClients, ThatDripByTheHundredsSlowNobodyDown) {
  for_both({}, [](Tested& tested) {
    auto dripping = connect(tested.port(), 1'000);
    for (auto& each : dripping) ASSERT_TRUE(each.send("GET /health HTTP/1.1\r\nHost: a\r\nX: "));
    std::atomic<int> rounds = 0;
    const std::jthread drip([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        const auto next = Clock::now() + 100ms;
        for (auto& each : dripping) ::send(each.fd(), "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        ++rounds;
        std::this_thread::sleep_until(next);
      }
    });
    const auto timings = time_health(tested.port(), [&] { return rounds >= 10; });
    expect_in_time(timings, kQuick, "/health beside 1,000 that drip");
  });
}

TEST(HostileClients, ThatNeverReadSlowNobodyDown) {
  for_both({}, [](Tested& tested) {
    const auto pid = tested.service.process().pid();
    // Warm, so that what grows is what the clients make grow.
    for (int i = 0; i < 50; ++i) EXPECT_EQ(get(tested.port(), "/metrics").status, 200);
    const auto before = rss_kib(pid);
    std::string flood;
    for (int i = 0; i < 4'000; ++i) flood += request_text("/metrics");
    auto deaf = connect(tested.port(), 50, {.receive_buffer = 2'048});
    std::vector<std::size_t> sent(deaf.size());
    const auto begin = Clock::now();
    const std::jthread flooding([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        for (std::size_t i = 0; i < deaf.size(); ++i) {
          const auto count = ::send(deaf[i].fd(), flood.data() + sent[i], flood.size() - sent[i],
                                    MSG_NOSIGNAL | MSG_DONTWAIT);
          if (count > 0) sent[i] = (sent[i] + static_cast<std::size_t>(count)) % flood.size();
        }
        std::this_thread::sleep_for(5ms);
      }
    });
    // From the first byte on, and until they have been stuck for a while.
    long most = before;
    const auto timings = time_health(tested.port(), [&] {
      most = std::max(most, rss_kib(pid));
      return Clock::now() > begin + 3s;
    });
    // They keep the processors busy, which a control that only sleeps doesn't feel.
    expect_in_time(timings, 10 * kQuick, "/health beside 50 that never read", 2s);
    // What is not sent is bounded by four answers, what is not read by 16 KiB and a head; a string
    // may hold twice that.
    if (!kSanitized) {
      EXPECT_LT(most - before, 50 * 300);
    }
  });
}

// Not beside a flood, which would take what it can from a busy machine.
TEST(ClientsThatTakeNothing, AreCutOffAfterTenSeconds) {
  const auto a = start_a();
  const auto b = start_b(a.url());
  const auto timings = time_at_once(10, [&](std::size_t i) {
    Connection deaf(i % 2 == 0 ? a.port() : b.port(), ConnectionOptions{.receive_buffer = 2'048});
    std::string requests;
    for (int k = 0; k < 2'000; ++k) requests += request_text("/metrics");
    deaf.send(requests, 500ms);
    pollfd polled{deaf.fd(), POLLRDHUP, 0};
    const auto start = Clock::now();
    EXPECT_EQ(::poll(&polled, 1, 20'000), 1);
    EXPECT_GE(Clock::now() - start, 9s);
    EXPECT_NE(polled.revents & (POLLHUP | POLLERR), 0);
  });
  // 0.5 s and the 300 answers of 8 kB that fill it come before the ten seconds.
  expect_in_time(timings, 13s, "the end of a client that takes nothing");
}

// The limit that a process knows of at its start is one thing: files may run out all the same.
TEST(HostileClients, ThatTakeAllFilesAreServedAsOthersLeaveAndMakeNothingSpin) {
  for_both({}, [](Tested& tested) {
    const auto pid = tested.service.process().pid();
    EXPECT_EQ(get(tested.port(), "/health").status, 200);
    const rlimit limit{40, 40};
    ASSERT_EQ(::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr), 0);
    auto crowd = connect(tested.port(), 100);
    for (auto& each : crowd) ASSERT_TRUE(each.send(kHealth));
    const auto cpu = cpu_seconds(pid);
    std::this_thread::sleep_for(1s);
    const auto share = cpu_seconds(pid) - cpu;
    EXPECT_LT(share, kSanitized ? 0.8 : 0.4) << "it spins";
    for (auto& each : crowd) {
      EXPECT_EQ(ask(each, "").status, 200);
      each.reset();
    }
  });
}

TEST(HostileClients, ThatAllConnectAtOnceFindRoomInTheBacklog) {
  for_both({}, [](Tested& tested) {
    auto& process = tested.service.process();
    process.hang();
    auto burst = connect(tested.port(), 400);
    process.signal(SIGCONT);
    for (auto& each : burst) {
      EXPECT_EQ(ask(each, kHealth).status, 200);
      // A connect that the backlog has no room for is sent again after a second.
      tcp_info info{};
      socklen_t size = sizeof info;
      check(::getsockopt(each.fd(), IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
      EXPECT_EQ(info.tcpi_total_retrans, 0U);
    }
  });
}

TEST(HostileClients, ThatResetAtOnceHarmNobody) {
  const auto reset_often = [](std::uint16_t port) {
    time_at_once(4, [port](std::size_t i) {
      for (int k = 0; k < 1'500; ++k) {
        Connection connection(port);
        if (k % 2 == 0) connection.send(kHealth.substr(0, i % 2 == 0 ? 10 : kHealth.size()));
        connection.reset();
      }
    });
  };
  for_both({}, [&](Tested& tested) { reset_often(tested.port()); });
  for_both({"--max-connections=1"}, [&](Tested& tested) {  // they are refused, besides
    Connection inside(tested.port());
    EXPECT_EQ(ask(inside, kHealth).status, 200);
    reset_often(tested.port());
    EXPECT_EQ(ask(inside, request_text("/health", "GET", "Connection: close\r\n")).status, 200);
  });
}

}  // namespace
}  // namespace tests
