// Clients that idle, drip, flood, never read or give up in the middle: none of them may hold up the
// others. Prints what it measures.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <sstream>
#include <thread>
#include <vector>

#include "integration/harness.hpp"
#include "support/eventually.hpp"
#include "support/faulty_upstream.hpp"
#include "support/http_client.hpp"
#include "support/process.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;
using Connections = std::vector<std::unique_ptr<Connection>>;

// The goals hold on a machine that does nothing else. Tests run next to each other, on two cores,
// with the clients on them as well: asserted is a multiple, and printed what was measured.
milliseconds fair(milliseconds goal) { return goal * (kSanitized ? 20 : 5); }

// For what ends when a fixed time is over: how much later it may be noticed.
const milliseconds kLate = kSanitized ? 3s : 1s;

void print_figure(const std::string& what, double value, const std::string& unit,
                  const std::string& goal = "") {
  std::cout << "[  FIGURE  ] " << what << ": " << value << " " << unit
            << (goal.empty() ? "" : " (goal: " + goal + ")") << std::endl;
}

double in_ms(Clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

std::string request(const std::string& target, const std::string& fields = "") {
  return "GET " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n";
}

const std::string kHealth = request("/health");

/// 99 of 100 calls of /health, half of them on new connections, are answered in this time.
Clock::duration health_p99(std::uint16_t port, int calls = 400) {
  std::vector<Clock::duration> times;
  Connection kept(port);
  for (int i = 0; i < calls; ++i) {
    const auto start = Clock::now();
    std::optional<Connection> fresh;
    if (i % 2 == 0) fresh.emplace(port);
    Connection& connection = fresh ? *fresh : kept;
    const auto response =
        connection.send(kHealth) ? connection.read_response() : std::optional<Response>();
    EXPECT_TRUE(response && response->status == 200) << connection.error();
    if (!response) return Clock::duration::max();
    times.push_back(Clock::now() - start);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() * 99 / 100];
}

/// User and system time that a process has used, in seconds (proc(5), /proc/pid/stat).
double cpu_seconds(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  std::istringstream rest(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 0; i < 11; ++i) rest >> skipped;
  double user = 0;
  double system = 0;
  rest >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

/// How many connections this process may have at the same time, up to `wanted`: it takes the limit
/// of open files as high as it goes.
int connections_possible(int wanted) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const auto room = static_cast<int>(std::min<rlim_t>(files.rlim_cur, 1'000'000)) - 300;
  if (room < wanted) std::cout << "only " << room << " connections, for the file limit\n";
  return std::min(room, wanted);
}

bool is_closed_after(Connection& connection, const std::optional<Response>& response) {
  return response && response->header("connection") == "close" && connection.closed_by_peer();
}

/// One of the two services, and what echoes a msg there. Service B has a Service A behind it.
class EitherService : public testing::TestWithParam<char> {
 protected:
  bool is_a() const { return GetParam() == 'a'; }

  void start(std::vector<std::string> flags = {}, const ProcessOptions& options = {}) {
    if (!is_a()) {
      upstream_.emplace(kServiceA);
      flags.push_back("--service-a-url=" + upstream_->url());
      flags.push_back("--timeout=20s");  // never what is tested here
    }
    service_.emplace(is_a() ? kServiceA : kServiceB, std::move(flags), options);
  }
  void TearDown() override {
    if (!service_) return;
    EXPECT_TRUE(service_->process().running()) << service_->process().err();
    EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }))
        << "it must have outlived its clients";
    EXPECT_EQ(service_->process().err(), "");
  }

  std::uint16_t port() const { return service_->port(); }
  Process& process() { return service_->process(); }
  pid_t pid() { return process().pid(); }

  std::string echo(const std::string& msg) const {
    return (is_a() ? "/echo?msg=" : "/call-echo?msg=") + percent_encode(msg);
  }
  std::string echoed(const Response& response) const {
    const auto json = response.json();
    const auto& from_a = is_a() ? json : json.value("service_a", nlohmann::json());
    return from_a.is_object() ? from_a.value("echo", "no echo") : "no echo";
  }

  Connections connect(int count) const {
    Connections out;
    for (int i = 0; i < count; ++i) {
      out.push_back(std::make_unique<Connection>(port()));
      EXPECT_TRUE(out.back()->connected()) << i << ": " << out.back()->error();
      if (!out.back()->connected()) break;
    }
    return out;
  }

 private:
  std::optional<Service> upstream_;
  std::optional<Service> service_;
};

INSTANTIATE_TEST_SUITE_P(Services, EitherService, testing::Values('a', 'b'),
                         [](const auto& test) { return std::string("service_") + test.param; });

// --- clients that idle, drip, never read

TEST_P(EitherService, AnswersQuicklyBehind5000IdleConnections) {
  start();
  auto idle = connect(connections_possible(5'000));
  for (std::size_t i = 0; i < idle.size(); i += 2) {  // half of them have asked something before
    ASSERT_TRUE(idle[i]->send(kHealth));
    ASSERT_TRUE(idle[i]->read_response());
  }
  const auto p99 = health_p99(port());
  print_figure("/health p99 behind " + std::to_string(idle.size()) + " idle connections",
               in_ms(p99), "ms", "20 ms");
  EXPECT_LT(p99, fair(20ms));
  // They are not forgotten.
  for (std::size_t i = 0; i < idle.size(); i += 100) {
    ASSERT_TRUE(idle[i]->send(kHealth));
    EXPECT_TRUE(idle[i]->read_response()) << idle[i]->error();
  }
}

TEST_P(EitherService, AnIdleConnectionCostsLittleMemory) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's allocator and shadow memory are not ours to count";
  start();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(get(port(), "/health").status(), 200);
  const auto before = rss_kib(pid());
  auto idle = connect(connections_possible(4'000));
  // Long enough to need a buffer, which must not be kept.
  const auto long_request = request("/health", "X: " + std::string(6'000, 'x') + "\r\n");
  for (auto& each : idle) {
    ASSERT_TRUE(each->send(long_request));
    ASSERT_TRUE(each->read_response());
  }
  const auto bytes =
      static_cast<double>(rss_kib(pid()) - before) * 1024 / static_cast<double>(idle.size());
  print_figure("memory of an idle connection", bytes, "bytes", "2048");
  EXPECT_LT(bytes, 2048);
}

TEST_P(EitherService, AnswersQuicklyBehind1000RequestsThatDrip) {
  start();
  auto dripping = connect(connections_possible(1'000));
  for (auto& each : dripping) ASSERT_TRUE(each->send("GET /health HTTP/1.1\r\nHost: a\r\nX: "));
  std::atomic<bool> stop = false;
  std::atomic<int> rounds = 0;
  std::thread drip([&] {
    while (!stop) {
      const auto next = Clock::now() + 100ms;
      for (auto& each : dripping) ::send(each->fd(), "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
      ++rounds;
      std::this_thread::sleep_until(next);
    }
  });
  EXPECT_TRUE(eventually([&] { return rounds > 0; }));
  // Until ten bytes each have arrived.
  auto p99 = Clock::duration::zero();
  do {
    p99 = std::max(p99, health_p99(port(), 200));
  } while (rounds < 10 && p99 < 5s);
  stop = true;
  drip.join();
  print_figure("/health p99 behind " + std::to_string(dripping.size()) + " dripping requests",
               in_ms(p99), "ms", "20 ms");
  EXPECT_LT(p99, fair(20ms));
}

TEST_P(EitherService, EndsHalfRequestsWith408AfterFiveSecondsDrippingOrNot) {
  start();
  constexpr std::size_t kCount = 60;
  auto half = connect(kCount);
  const auto begin = Clock::now();
  for (auto& each : half) ASSERT_TRUE(each->send("GET /health HTTP/1.1\r\nHost: a\r\nX: "));
  std::vector<double> ended;
  while (!half.empty() && Clock::now() < begin + 5s + 5 * kLate) {
    // The first half goes on dripping.
    for (auto& each : half) {
      if (each->fd() % 2 == 0) ::send(each->fd(), "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    const auto round_ends = Clock::now() + 50ms;
    while (Clock::now() < round_ends) {
      std::vector<pollfd> polled;
      for (const auto& each : half) polled.push_back({each->fd(), POLLIN, 0});
      ::poll(polled.data(), polled.size(), poll_timeout(round_ends));
      for (std::size_t i = polled.size(); i-- > 0;) {
        if (polled[i].revents == 0) continue;
        ended.push_back(in_ms(Clock::now() - begin));
        const auto response = half[i]->read_response();
        ASSERT_TRUE(response) << half[i]->error();
        EXPECT_EQ(response->status, 408);
        EXPECT_TRUE(response->json().contains("error"));
        EXPECT_TRUE(is_closed_after(*half[i], response)) << half[i]->error();
        half.erase(half.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  ASSERT_EQ(ended.size(), kCount);
  print_figure("half requests end, first", ended.front(), "ms", "5000 ms");
  print_figure("half requests end, last", ended.back(), "ms", "5000 ms");
  EXPECT_GE(ended.front(), 4'900);
  EXPECT_LE(ended.back(), in_ms(5s + kLate));
}

TEST_P(EitherService, AnswersQuicklyBeside50ThatNeverRead) {
  start();
  // Warm, so that what grows is what the clients make grow.
  for (int i = 0; i < 50; ++i) EXPECT_EQ(get(port(), "/metrics").status(), 200);
  const auto before = rss_kib(pid());
  std::string flood;
  for (int i = 0; i < 4'000; ++i) flood += request("/metrics");
  ConnectionOptions options;
  options.receive_buffer = 2'048;
  Connections deaf;
  for (int i = 0; i < 50; ++i) deaf.push_back(std::make_unique<Connection>(port(), options));
  std::vector<std::size_t> sent(deaf.size());
  std::atomic<bool> stop = false;
  std::thread flooding([&] {
    while (!stop) {
      for (std::size_t i = 0; i < deaf.size(); ++i) {
        const auto count = ::send(deaf[i]->fd(), flood.data() + sent[i], flood.size() - sent[i],
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) sent[i] = (sent[i] + static_cast<std::size_t>(count)) % flood.size();
      }
      std::this_thread::sleep_for(5ms);
    }
  });
  // From the first byte on, and until they have been stuck for a while.
  auto p99 = Clock::duration::zero();
  long most = before;
  const auto until = Clock::now() + 3s;
  do {
    p99 = std::max(p99, health_p99(port(), 200));
    most = std::max(most, rss_kib(pid()));
  } while (Clock::now() < until && p99 < 5s);
  print_figure("/health p99 beside 50 that never read", in_ms(p99), "ms", "50 ms");
  print_figure("memory for each that never reads", static_cast<double>(most - before) / 50, "KiB");
  EXPECT_LT(p99, fair(50ms));
  // What is not sent is bounded by four answers, what is not read by 16 KiB and a head; a string
  // may hold twice that.
  if (!kSanitized) {
    EXPECT_LT(most - before, 50 * 300);
  }

  // They are cut off after ten seconds.
  const auto begin = Clock::now();
  EXPECT_TRUE(eventually(
      [&] {
        return std::all_of(deaf.begin(), deaf.end(), [](const auto& each) {
          pollfd polled{each->fd(), POLLRDHUP, 0};
          return ::poll(&polled, 1, 0) == 1 && (polled.revents & (POLLHUP | POLLERR)) != 0;
        });
      },
      10s + 5 * kLate));
  stop = true;
  flooding.join();
  print_figure("those that never read are cut off", in_ms(Clock::now() - begin), "ms later");
}

// --- more than there is room for

TEST_P(EitherService, OutlivesAFileLimitOf40) {
  ProcessOptions options;
  options.max_open_files = 40;
  start({}, options);
  {
    auto crowd = connect(100);
    for (auto& each : crowd) each->send(kHealth);
    const auto cpu = cpu_seconds(pid());
    const auto begin = Clock::now();
    std::this_thread::sleep_for(1s);
    const auto share =
        (cpu_seconds(pid()) - cpu) / std::chrono::duration<double>(Clock::now() - begin).count();
    print_figure("processor time with 100 connects and 40 files", share * 100, "%");
    EXPECT_LT(share, kSanitized ? 0.8 : 0.4) << "it spins";
    EXPECT_TRUE(process().running());
    EXPECT_LE(open_files(pid()), 40);
  }
  const auto begin = Clock::now();
  EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }));
  print_figure("it answers again", in_ms(Clock::now() - begin), "ms after they have left");
}

// The limit the process knows of at its start is one thing: files may run out all the same.
TEST_P(EitherService, OutlivesRunningOutOfFiles) {
  start();
  EXPECT_EQ(get(port(), "/health").status(), 200);
  const rlimit limit{40, 40};
  rlimit old{};
  ASSERT_EQ(::prlimit(pid(), RLIMIT_NOFILE, &limit, &old), 0);
  {
    auto crowd = connect(100);
    for (auto& each : crowd) each->send(kHealth);
    const auto cpu = cpu_seconds(pid());
    const auto begin = Clock::now();
    std::this_thread::sleep_for(1s);
    const auto share =
        (cpu_seconds(pid()) - cpu) / std::chrono::duration<double>(Clock::now() - begin).count();
    print_figure("processor time while accept finds no file", share * 100, "%");
    EXPECT_LT(share, kSanitized ? 0.8 : 0.4) << "it spins";
    // Who is in is served, and who waits comes in as others leave.
    int answered = 0;
    for (auto& each : crowd) {
      const auto response = each->read_response();
      if (response && response->status == 200) ++answered;
      each.reset();
    }
    EXPECT_EQ(answered, 100);
  }
  EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }));
}

TEST_P(EitherService, RefusesMoreThanMaxConnectionsReadablyAndServesAgainOnceOneCloses) {
  start({"--max-connections=3"});
  auto inside = connect(3);
  for (auto& each : inside) {
    ASSERT_TRUE(each->send(kHealth));
    const auto response = each->read_response();
    ASSERT_TRUE(response && response->status == 200);
  }
  for (int i = 0; i < 20; ++i) {
    Connection outside(port());
    outside.send(kHealth);
    const auto response = outside.read_response();
    ASSERT_TRUE(response) << outside.error();
    EXPECT_EQ(response->status, 503);
    EXPECT_TRUE(response->json().contains("error")) << response->body;
    EXPECT_TRUE(response->header("x-request-id"));
    EXPECT_TRUE(is_closed_after(outside, response));
  }
  ASSERT_TRUE(inside[0]->send(kHealth));
  EXPECT_TRUE(inside[0]->read_response()) << "who is inside is not disturbed";
  inside.pop_back();
  EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }));
}

// Those that are told so, and stay all the same, must not take the places that become free.
TEST_P(EitherService, ThoseRefusedDoNotKeepOthersOut) {
  start({"--max-connections=3"});
  auto inside = connect(3);
  for (auto& each : inside) {
    ASSERT_TRUE(each->send(kHealth));
    ASSERT_TRUE(each->read_response());
  }
  auto refused = connect(20);
  for (auto& each : refused) ASSERT_TRUE(each->read_response());
  inside.clear();
  const auto begin = Clock::now();
  EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }));
  print_figure("a place is free again", in_ms(Clock::now() - begin), "ms after it was left");
  EXPECT_LT(Clock::now() - begin, 500ms + (kSanitized ? kLate : 0ms));
}

TEST_P(EitherService, TakesABurstOf400Connects) {
  start();
  std::vector<UniqueFd> burst;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto begin = Clock::now();
  for (int i = 0; i < 400; ++i) {
    burst.emplace_back(check(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket"));
    ::connect(burst.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  std::vector<bool> asked(burst.size());
  std::vector<bool> answered(burst.size());
  std::ptrdiff_t missing = 400;
  while (missing > 0 && Clock::now() < begin + 20s) {
    std::vector<pollfd> polled;
    for (std::size_t i = 0; i < burst.size(); ++i) {
      polled.push_back(
          {answered[i] ? -1 : burst[i].get(), static_cast<short>(asked[i] ? POLLIN : POLLOUT), 0});
    }
    ::poll(polled.data(), polled.size(), 100);
    for (std::size_t i = 0; i < burst.size(); ++i) {
      if (polled[i].revents == 0) continue;
      if (!asked[i]) {
        asked[i] = ::send(burst[i].get(), kHealth.data(), kHealth.size(), MSG_NOSIGNAL) > 0;
        continue;
      }
      std::array<char, 1'024> buffer{};
      const auto count = ::recv(burst[i].get(), buffer.data(), buffer.size(), 0);
      ASSERT_GT(count, 0);
      EXPECT_TRUE(std::string_view(buffer.data()).starts_with("HTTP/1.1 200"));
      answered[i] = true;
      --missing;
    }
  }
  EXPECT_EQ(missing, 0);
  const auto elapsed = Clock::now() - begin;
  print_figure("400 simultaneous connects are answered", in_ms(elapsed), "ms");
  // A connect that the backlog has no room for is sent again after a second.
  for (const auto& each : burst) {
    tcp_info info{};
    socklen_t size = sizeof info;
    check(::getsockopt(each.get(), IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
    EXPECT_EQ(info.tcpi_total_retrans, 0U);
  }
}

TEST_P(EitherService, OutlivesClientsThatResetAtOnce) {
  start();
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this, i] {
      for (int k = 0; k < 1'500; ++k) {
        Connection connection(port());
        if (k % 2 == 0) connection.send(std::string_view(kHealth).substr(0, i % 2 == 0 ? 10 : 99));
        connection.reset();
      }
    });
  }
  for (auto& each : clients) each.join();
  EXPECT_TRUE(process().running()) << process().err();
  EXPECT_EQ(get(port(), "/health").status(), 200);
}

TEST_P(EitherService, OutlivesRefusedClientsThatResetAtOnce) {
  start({"--max-connections=1", "--log-level=info"});
  Connection inside(port());
  ASSERT_TRUE(inside.send(kHealth));
  ASSERT_TRUE(inside.read_response());
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this] {
      for (int k = 0; k < 1'500; ++k) Connection(port()).reset();
    });
  }
  for (auto& each : clients) each.join();
  EXPECT_TRUE(process().running()) << process().err();
  ASSERT_TRUE(inside.send(kHealth));
  EXPECT_TRUE(inside.read_response());
  EXPECT_TRUE(inside.send(request("/health", "Connection: close\r\n")));
  EXPECT_TRUE(eventually([&] { return get(port(), "/health").status() == 200; }));
}

// --- pipelines

TEST_P(EitherService, AnswersAPipelineInOrder) {
  start();
  for (const std::size_t piece : {std::size_t{1'000'000}, std::size_t{7}, std::size_t{1}}) {
    std::string bytes;
    for (int i = 0; i < 50; ++i) bytes += request(echo("m " + std::to_string(i)));
    Connection connection(port());
    std::thread sender([&] {
      for (std::size_t at = 0; at < bytes.size(); at += piece) {
        if (!connection.send(std::string_view(bytes).substr(at, piece))) return;
      }
    });
    sender.join();
    for (int i = 0; i < 50; ++i) {
      const auto response = connection.read_response();
      ASSERT_TRUE(response) << i << ": " << connection.error();
      EXPECT_EQ(response->status, 200);
      EXPECT_EQ(echoed(*response), "m " + std::to_string(i)) << "pieces of " << piece;
    }
    print_figure("answers in order to 50 requests in pieces of " +
                     std::to_string(std::min(piece, bytes.size())) + " bytes",
                 50, "", "50");
    EXPECT_EQ(connection.unread(), "");
  }
}

TEST_P(EitherService, AnswersALongPipelineWhoseAnswersAreReadLate) {
  start();
  const int count = kSanitized ? 1'000 : 5'000;
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes += request(echo(std::to_string(i)));
  Connection connection(port());
  std::atomic<bool> sent = false;
  std::thread sender([&] { sent = connection.send(bytes, 30s); });
  for (int i = 0; i < count; ++i) {
    const auto response = connection.read_response(30s);
    if (!response || echoed(*response) != std::to_string(i)) {
      ADD_FAILURE() << i << ": " << connection.error();
      connection.shutdown_write();
      break;
    }
  }
  sender.join();
  EXPECT_TRUE(sent);
}

TEST_P(EitherService, MixesWhatItAnswersAndKeepsTheOrder) {
  start();
  Connection connection(port());
  ASSERT_TRUE(connection.send(request("/no-such-path") +
                              "HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n" + "\r\n" +
                              request(echo("x")) + request(echo("%")) +
                              request("/health", "Connection: close\r\n") + kHealth));
  EXPECT_EQ(connection.read_response()->status, 404);
  const auto head = connection.read_response(5s, true);
  ASSERT_TRUE(head);
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->header("content-length"), "16");
  EXPECT_EQ(echoed(*connection.read_response()), "x");
  EXPECT_EQ(echoed(*connection.read_response()), "%");
  const auto last = connection.read_response();
  EXPECT_TRUE(is_closed_after(connection, last));
  EXPECT_EQ(connection.unread(), "") << "nothing is answered after Connection: close";
}

TEST_P(EitherService, ARefusalEndsThePipelineBehindTheAnswersBeforeIt) {
  start();
  Connection connection(port());
  ASSERT_TRUE(
      connection.send(request(echo("1")) + request(echo("2")) + "rubbish\r\n\r\n" + kHealth));
  EXPECT_EQ(echoed(*connection.read_response()), "1");
  EXPECT_EQ(echoed(*connection.read_response()), "2");
  const auto refusal = connection.read_response();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->status, 400);
  EXPECT_TRUE(is_closed_after(connection, refusal));
  EXPECT_EQ(connection.unread(), "");
}

// --- how a connection ends

TEST_P(EitherService, AnswersAClientThatHasClosedItsSide) {
  start();
  Connection one(port());
  ASSERT_TRUE(one.send(request(echo("half"))));
  one.shutdown_write();
  const auto response = one.read_response();
  ASSERT_TRUE(response) << one.error();
  EXPECT_EQ(echoed(*response), "half");
  EXPECT_TRUE(one.closed_by_peer());

  Connection many(port());
  std::string bytes;
  for (int i = 0; i < 30; ++i) bytes += request(echo(std::to_string(i)));
  ASSERT_TRUE(many.send(bytes));
  many.shutdown_write();
  for (int i = 0; i < 30; ++i) {
    const auto each = many.read_response();
    ASSERT_TRUE(each) << i << ": " << many.error();
    EXPECT_EQ(echoed(*each), std::to_string(i));
  }
  EXPECT_TRUE(many.closed_by_peer());
}

TEST_P(EitherService, ClosesWhereTheClientClosesInTheMiddleOfARequest) {
  start();
  Connection connection(port());
  ASSERT_TRUE(connection.send("GET /health HTTP/1.1\r\nHo"));
  connection.shutdown_write();
  EXPECT_TRUE(connection.closed_by_peer());
  const auto& rest = connection.unread();
  EXPECT_TRUE(rest.empty() || rest.starts_with("HTTP/1.1 4")) << rest;
}

TEST_P(EitherService, HonoursConnectionClose) {
  start();
  Connection connection(port());
  ASSERT_TRUE(connection.send(request(echo("x"), "Connection: close\r\n")));
  const auto response = connection.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(echoed(*response), "x");
  EXPECT_TRUE(is_closed_after(connection, response));
}

TEST_P(EitherService, KeepsAConnectionWhereNobodyAsksToClose) {
  start();
  Connection connection(port());
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(connection.send(kHealth));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << i << ": " << connection.error();
    EXPECT_EQ(response->header("connection"), std::nullopt);
  }
}

TEST_P(EitherService, SpeaksHttp10) {
  start();
  for (const auto& [target, status] : {std::pair{std::string("/health"), 200},
                                       {echo("x"), 200},
                                       {std::string("/no-such-path"), 404}}) {
    Connection once(port());
    ASSERT_TRUE(once.send("GET " + target + " HTTP/1.0\r\n\r\n"));
    const auto response = once.read_response();
    ASSERT_TRUE(response) << once.error();
    EXPECT_EQ(response->status, status);
    EXPECT_EQ(response->header("transfer-encoding"), std::nullopt);
    EXPECT_TRUE(is_closed_after(once, response)) << target;

    Connection kept(port());
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(kept.send("GET " + target + " HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
      const auto again = kept.read_response();
      ASSERT_TRUE(again) << kept.error();
      EXPECT_EQ(again->status, status);
      // RFC 9112, section 9.3: without it, a client of 1.0 waits for the close.
      EXPECT_EQ(again->header("connection"), "keep-alive") << target;
    }
  }
}

TEST_P(EitherService, ClosesBehindEveryRefusal) {
  start();
  for (const auto& [bytes, status] : std::vector<std::pair<std::string, int>>{
           {"rubbish\r\n\r\n", 400},
           {"GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 505},
           {"GET /" + std::string(8'200, 'a'), 414},
           {"GET /health HTTP/1.1\r\nX: " + std::string(16'400, 'a'), 431},
           {"POST /health HTTP/1.1\r\nHost: a\r\n\r\n", 405},
           {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404},
           {"BREW /no-such-path HTTP/1.1\r\nHost: a\r\n\r\n", 404}}) {
    Connection connection(port());
    ASSERT_TRUE(connection.send(bytes + kHealth));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    EXPECT_EQ(response->status, status);
    EXPECT_TRUE(response->json().contains("error"));
    EXPECT_EQ(response->header("content-type"), "application/json");
    EXPECT_TRUE(response->header("x-request-id"));
    EXPECT_TRUE(is_closed_after(connection, response)) << status;
    EXPECT_EQ(connection.unread(), "");
  }
}

// A body that nobody reads is answered by a reset once the socket is closed, and a reset may
// overtake the answer: the server has to read on for a while.
TEST_P(EitherService, TheAnswerToAPostIsNotLostToItsBody) {
  start();
  for (const std::size_t size : {0u, 1'000u, 65'536u, 1'000'000u}) {
    for (int round = 0; round < 5; ++round) {
      Connection connection(port());
      const auto head = "POST " + echo("x") +
                        " HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(size) +
                        "\r\n\r\n";
      EXPECT_TRUE(connection.send(head + std::string(size, 'b'))) << size << connection.error();
      const auto response = connection.read_response();
      ASSERT_TRUE(response) << size << ": " << connection.error();
      EXPECT_EQ(response->status, 405);
      EXPECT_EQ(response->header("allow"), "GET, HEAD");
      EXPECT_TRUE(is_closed_after(connection, response)) << size;
      // A reset, such as a close before all is read causes, may overtake the answer.
      EXPECT_EQ(connection.error(), "") << size;
    }
  }
}

TEST_P(EitherService, ABodyWithoutEndIsCutOff) {
  start();
  Connection connection(port());
  ASSERT_TRUE(
      connection.send("POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
  const auto begin = Clock::now();
  const std::string block(65'536, 'b');
  std::size_t sent = 0;
  while (connection.send(block) && Clock::now() < begin + 20s) sent += block.size();
  EXPECT_LT(Clock::now() - begin, 2s + kLate);
  print_figure("bytes taken of a body without end", static_cast<double>(sent), "");
}

TEST_P(EitherService, AClientThatStaysAfterARefusalIsClosedAllTheSame) {
  start();
  auto stubborn = connect(20);
  for (auto& each : stubborn) {
    ASSERT_TRUE(each->send("rubbish\r\n\r\n"));
    ASSERT_TRUE(each->read_response());
  }
  EXPECT_TRUE(eventually(
      [&] {
        const auto metrics = get(port(), "/metrics");
        return metrics.response &&
               metrics.response->body.find("http_server_open_connections 1\n") != std::string::npos;
      },
      2s + 5 * kLate));
}

// --- fields without effect

TEST_P(EitherService, RangeEncodingExpectAndUpgradeHaveNoEffect) {
  start();
  Connection plain(port());
  ASSERT_TRUE(plain.send(request(echo("x"))));
  const auto expected = plain.read_response();
  ASSERT_TRUE(expected);
  std::string ranges = "bytes=0-1";
  for (int i = 0; i < 1'000; ++i) ranges += ",0-1";
  for (const std::string& fields :
       {std::string("Range: bytes=0-1\r\n"), "Range: " + ranges + "\r\n",
        std::string("Accept-Encoding: gzip, br, deflate, *;q=0\r\n"),
        std::string("Expect: 100-continue\r\n"), std::string("Expect: 200-ok\r\n"),
        std::string(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
        std::string("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        std::string("If-None-Match: *\r\nIf-Modified-Since: Mon, 23 Nov 2026 06:47:01 GMT\r\n"),
        std::string("X-HTTP-Method-Override: DELETE\r\nTE: trailers\r\n"),
        std::string("Content-Encoding: gzip\r\nContent-Type: multipart/form-data\r\n"),
        std::string("REMOTE_ADDR: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n")}) {
    Connection connection(port());
    ASSERT_TRUE(connection.send(request(echo("x"), fields)));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << fields << connection.error();
    EXPECT_EQ(response->status, 200) << fields;
    EXPECT_EQ(response->body, expected->body) << fields;
    Headers names = response->headers;
    ASSERT_EQ(names.size(), expected->headers.size()) << fields << response->head;
    for (std::size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(names[i].first, expected->headers[i].first) << fields;
    }
    ASSERT_TRUE(connection.send(kHealth)) << "the connection goes on";
    EXPECT_TRUE(connection.read_response()) << fields;
  }
}

// --- limits, to the byte

int status_of(std::uint16_t port, const std::string& bytes) {
  Connection connection(port);
  connection.send(bytes);
  const auto response = connection.read_response();
  return response ? response->status : 0;
}

TEST_P(EitherService, TakesARequestLineOf8192BytesAndNoMore) {
  start();
  const std::size_t around = std::string("GET /health? HTTP/1.1").size();
  EXPECT_EQ(status_of(port(), request("/health?" + std::string(8'192 - around, 'a'))), 200);
  EXPECT_EQ(status_of(port(), request("/health?" + std::string(8'193 - around, 'a'))), 414);
  EXPECT_EQ(status_of(port(), request("/health?" + std::string(1'000'000, 'a'))), 414);
}

TEST_P(EitherService, TakesAHeadOf16KiBAndNoMore) {
  start();
  const auto around = request("/health", "X: \r\n").size();
  const auto head_of = [&](std::size_t size) {
    return request("/health", "X: " + std::string(size - around, 'a') + "\r\n");
  };
  EXPECT_EQ(status_of(port(), head_of(12'000)), 200);
  EXPECT_EQ(status_of(port(), head_of(16'384)), 200);
  EXPECT_EQ(status_of(port(), head_of(16'385)), 431);
  EXPECT_EQ(status_of(port(), head_of(1'000'000)), 431);
}

TEST_P(EitherService, Takes100FieldsAndNoMore) {
  start();
  const auto with_fields = [](int count) {
    std::string fields;
    for (int i = 1; i < count; ++i) fields += "X-" + std::to_string(i) + ": 1\r\n";
    return request("/health", fields);
  };
  EXPECT_EQ(status_of(port(), with_fields(100)), 200);
  EXPECT_EQ(status_of(port(), with_fields(101)), 431);
}

TEST_P(EitherService, TakesAQueryOfThousandsOfParameters) {
  start();
  std::string query = "msg=first";
  while (query.size() < 8'000) query += "&m=" + std::to_string(query.size()) + "&msg=second";
  query.resize(8'000);
  Connection connection(port());
  const std::string path = is_a() ? "/echo?" : "/call-echo?";
  const auto begin = Clock::now();
  ASSERT_TRUE(connection.send(request(path + query)));
  const auto response = connection.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(echoed(*response), "first");
  EXPECT_LT(Clock::now() - begin, fair(50ms));
}

// --- handlers that block or are late

TEST(BlockedHandlers, KeepNobodyElseWaiting) {
  FaultyUpstream upstream(mode_named("silent"));
  Service service(kServiceB,
                  {"--max-upstream-calls=8", "--timeout=3s", "--service-a-url=" + upstream.url()});
  Connections blocked;
  for (int i = 0; i < 8; ++i) {
    blocked.push_back(std::make_unique<Connection>(service.port()));
    ASSERT_TRUE(blocked.back()->send(request("/call-echo?msg=" + std::to_string(i))));
  }
  const auto begin = Clock::now();
  ASSERT_TRUE(eventually([&] { return upstream.requests().size() == 8; }));
  const auto p99 = health_p99(service.port(), 200);
  print_figure("/health p99 beside 8 of 8 blocked calls", in_ms(p99), "ms", "20 ms");
  EXPECT_LT(p99, fair(20ms));
  const auto ninth = get(service.port(), "/call-echo?msg=9");
  ASSERT_TRUE(ninth.response) << ninth.error;
  EXPECT_EQ(ninth.status(), 503);
  if (Clock::now() < begin + 2500ms) {
    EXPECT_EQ(ninth.response->json()["reason"], "overloaded");
    EXPECT_LT(ninth.elapsed, fair(50ms));
  }
  for (auto& each : blocked) {
    const auto response = each->read_response(3s + 5 * kLate);
    ASSERT_TRUE(response) << each->error();
    EXPECT_EQ(response->json()["reason"], "timeout");
  }
}

TEST(DelayedAnswers, KeepNobodyElseWaitingAndAreNotLost) {
  Service service(kServiceA, {"--delay=700ms"});
  constexpr int kCount = 200;
  Connections late;
  std::vector<Clock::time_point> sent;
  for (int i = 0; i < kCount; ++i) {
    late.push_back(std::make_unique<Connection>(service.port()));
    sent.push_back(Clock::now());
    ASSERT_TRUE(late.back()->send(request("/echo?msg=" + std::to_string(i)) + kHealth));
    if (i % 2 == 0) late.back()->shutdown_write();
  }
  const auto p99 = health_p99(service.port(), 200);
  print_figure("/health p99 beside 200 delayed answers", in_ms(p99), "ms", "20 ms");
  EXPECT_LT(p99, fair(20ms));
  auto slowest = Clock::duration::zero();
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto response = late[i]->read_response();
    ASSERT_TRUE(response) << i << ": " << late[i]->error();
    EXPECT_EQ(response->json()["echo"], std::to_string(i));
    EXPECT_GE(Clock::now() - sent[i], 700ms);
    slowest = std::max(slowest, Clock::now() - sent[i]);
    const auto next = late[i]->read_response();
    ASSERT_TRUE(next) << i << ": what was pipelined behind it is answered after it";
    EXPECT_EQ(next->json()["status"], "ok");
  }
  print_figure("an answer delayed by 700 ms takes at most", in_ms(slowest), "ms");
}

/// Service A, whose answers to /echo are late, and Service B, which waits for them.
struct LateAnswers : testing::Test {
  Service a{kServiceA, {"--delay=1s"}};
  Service b = start_b(a.url(), {"--timeout=20s"});
  const std::vector<std::pair<std::uint16_t, std::string>> late{{a.port(), "/echo"},
                                                                {b.port(), "/call-echo"}};

  /// Of requests, without the one that asks.
  static int under_way(const Service& service) {
    const std::string name = "\nhttp_server_active_requests ";
    const auto metrics = get(service.port(), "/metrics");
    const auto at = metrics.response ? metrics.response->body.find(name) : std::string::npos;
    return at == std::string::npos ? -1
                                   : std::stoi(metrics.response->body.substr(at + name.size())) - 1;
  }
};

TEST_F(LateAnswers, ComeToClientsThatCloseTheirSideOrSendMore) {
  Connections waiting;
  for (const auto& [port, path] : late) {
    for (const char* rest : {" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                             " HTTP/1.0\r\n\r\n", " HTTP/1.1\r\nHost: a\r\n\r\n"}) {
      for (int i = 0; i < 2; ++i) {
        waiting.push_back(std::make_unique<Connection>(port));
        ASSERT_TRUE(waiting.back()->send("GET " + path + rest));
      }
    }
  }
  EXPECT_TRUE(eventually([&] { return under_way(a) == 12 && under_way(b) == 6; }));
  for (std::size_t i = 0; i < waiting.size(); i += 2) {
    waiting[i]->shutdown_write();
    EXPECT_TRUE(waiting[i + 1]->send("GET /health HTTP/1.0\r\n\r\n"));
  }
  for (auto& each : waiting) {
    const auto response = each->read_response();
    ASSERT_TRUE(response) << each->error();
    EXPECT_EQ(response->status, 200) << response->body;
    EXPECT_TRUE(each->closed_by_peer());
  }
}

TEST_F(LateAnswers, MayComeToClientsThatAreLost) {
  for (const auto& [port, path] : late) {
    for (int i = 0; i < 30; ++i) {
      Connection connection(port);
      connection.send(i % 2 == 0 ? kHealth + request(path) : "GET " + path + " HTTP/1.0\r\n\r\n");
      if (i % 3 == 0) connection.reset();
    }
  }
  EXPECT_TRUE(eventually([&] { return under_way(a) > 20 && under_way(b) > 20; }));
  EXPECT_TRUE(eventually([&] { return under_way(a) == 0 && under_way(b) == 0; }));
  for (auto* each : {&a, &b}) {
    EXPECT_EQ(get(each->port(), "/health").status(), 200);
    EXPECT_EQ(each->process().err(), "");
  }
}

TEST_F(LateAnswers, LeaveTheNextRequestItsTime) {
  auto slow = start_a({"--delay=6s"});  // longer than a head may take
  Connection client(slow.port());
  client.send(request_text("/echo?msg=x") + "GET /health HTTP/1.1\r\nHo");
  auto response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  EXPECT_EQ(response->status, 200);
  client.send("st: a\r\n\r\n");
  response = client.read_response(kPatience);
  ASSERT_TRUE(response) << client.error();
  EXPECT_EQ(response->status, 200);
}

}  // namespace
}  // namespace tests
