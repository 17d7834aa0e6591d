// Callers, faults and hostile clients at the same time, for as many minutes as the environment
// variable SOAK_MINUTES says: scripts/soak.sh.

#include <array>
#include <cstdlib>
#include <iostream>

#include "chaos/callers.hpp"

namespace tests::chaos {
namespace {

constexpr std::chrono::seconds kReportInterval{10};
constexpr int kHostileOfAKind = 2;

// Clients of which no service must take harm. Each kind is a loop of its own; both services have
// their share.
class HostileClients {
 public:
  explicit HostileClients(std::array<std::uint16_t, 2> ports) : ports_(ports) {
    auto seed = chaos_seed();
    for (const auto kind :
         {&HostileClients::idle, &HostileClients::drip, &HostileClients::never_read,
          &HostileClients::half_heads, &HostileClients::garbage, &HostileClients::reset}) {
      for (int i = 0; i < kHostileOfAKind; ++i) {
        threads_.emplace_back([this, kind, client_seed = seed++] {
          std::mt19937 random(client_seed);
          while (!stopping_) {
            (this->*kind)(random);
            ++done_;
            wait(random, 1, 50);
          }
        });
      }
    }
  }
  ~HostileClients() {
    stopping_ = true;
    for (auto& thread : threads_) thread.join();
  }
  std::size_t done() const { return done_; }

 private:
  std::uint16_t one_port(std::mt19937& random) const { return ports_[random() % ports_.size()]; }

  // In short steps, so that the end is near when it is asked for.
  void wait(std::mt19937& random, int low, int high) const {
    const auto end = Clock::now() + milliseconds(draw(random, low, high));
    while (!stopping_ && Clock::now() < end) std::this_thread::sleep_for(milliseconds(5));
  }

  void idle(std::mt19937& random) {
    std::list<Connection> connections;
    for (int i = 0; i < 50; ++i) connections.emplace_back(one_port(random));
    wait(random, 100, 8'000);
  }
  void drip(std::mt19937& random) {
    Connection connection(one_port(random));
    const auto head = request_text("/call-echo?msg=drip", "GET", "X: " + std::string(150, 'x'));
    for (std::size_t i = 0; i < head.size() && !stopping_; ++i) {
      if (!connection.send(head.substr(i, 1), milliseconds(100))) break;
      wait(random, 20, 100);
    }
  }
  void never_read(std::mt19937& random) {
    Connection connection(one_port(random), ConnectionOptions{.receive_buffer = 2'048});
    std::string requests;
    for (int i = 0; i < 200; ++i) requests += request_text("/metrics");
    connection.send(requests, milliseconds(200));
    wait(random, 100, 12'000);
    if (random() % 2 == 0) connection.reset();
  }
  void half_heads(std::mt19937& random) {
    Connection connection(one_port(random));
    const auto request = request_text("/call-echo?msg=half");
    connection.send(request.substr(0, 1 + random() % (request.size() - 1)));
    wait(random, 0, 200);
    if (random() % 2 == 0) connection.shutdown_write();
  }
  void garbage(std::mt19937& random) {
    Connection connection(one_port(random));
    std::string bytes(1 + random() % 4'096, '\0');
    for (char& each : bytes) each = static_cast<char>(random() & 0xFFU);
    if (random() % 2 == 0) bytes.insert(0, "GET /echo?msg=");
    connection.send(bytes + "\r\n\r\n", milliseconds(100));
    std::ignore = connection.closed_by_peer(milliseconds(500));
  }
  // Connects, perhaps asks, and is gone.
  void reset(std::mt19937& random) {
    for (int i = 0; i < 20 && !stopping_; ++i) {
      Connection connection(one_port(random));
      if (random() % 2 == 0) {
        connection.send(request_text("/call-echo?msg=gone"));
        wait(random, 0, 2);
      }
      connection.reset();
    }
  }

  const std::array<std::uint16_t, 2> ports_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> done_{0};
  std::list<std::thread> threads_;
};

class Soak : public Chaos {};

TEST_F(Soak, HoldsUnderCallersFaultsAndHostileClients) {
  const char* minutes = std::getenv("SOAK_MINUTES");
  if (minutes == nullptr) GTEST_SKIP() << "takes minutes: scripts/soak.sh";
  const std::chrono::duration<double, std::ratio<60>> time(std::atof(minutes));
  a_.keeps_log = false;
  b_.keeps_log = false;
  // Hostile clients would make use of all the time that a stop gives them.
  a_.flags = {"--drain-timeout=1s"};
  b_.start();
  auto before = footprint(b_.pid());
  a_.start();
  {
    HostileClients hostile({a_.port(), b_.port()});
    // `overloaded`: hostile clients call as well, and wait for nothing.
    Callers callers(
        {.port = b_.port(),
         .reasons = {"timeout", "connection_refused", "connection_closed", "overloaded"},
         .pause = milliseconds(2)});
    const auto start = Clock::now();
    auto next_report = start + kReportInterval;
    bool warm = false;
    std::map<std::string, int> faults;
    while (Clock::now() < start + time && b_.running()) {
      pause(random_, 100, 1'000);
      const std::string fault = std::array{"kill", "stop", "hang"}.at(random_() % 3);
      ++faults[fault];
      if (fault == "kill") a_.kill();
      if (fault == "stop") a_.stop();
      if (fault == "hang") a_.hang();
      pause(random_, 0, fault == "hang" ? 1'500 : 200);
      fault == "hang" ? a_.resume() : a_.start();
      if (!warm && Clock::now() >= start + time / 4) {
        warm = true;
        before.rss_kib = footprint(b_.pid()).rss_kib;
      }
      if (Clock::now() < next_report) continue;
      next_report += kReportInterval;
      std::cout << "soak: "
                << std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start).count()
                << " s, " << callers.so_far().summary();
      for (const auto& [what, count] : faults) std::cout << ", " << what << ": " << count;
      std::cout << ", hostile: " << hostile.done() << " | service-a "
                << to_text(footprint(a_.pid())) << " | service-b " << to_text(footprint(b_.pid()))
                << std::endl;
    }
    const auto tally = callers.stop();
    expect_no_violation(tally);
    EXPECT_GT(tally.count("200"), 0U);
  }
  ASSERT_TRUE(b_.running()) << "service-b ended by itself";
  // With no fault left there are right answers and nothing else.
  Callers callers({.port = b_.port(), .seed = chaos_seed() + 1});
  callers.wait_for_ok(1'000);
  const auto tally = callers.stop();
  report("afterwards " + tally.summary());
  expect_no_violation(tally);
  expect_nothing_left(before);
}

}  // namespace
}  // namespace tests::chaos
