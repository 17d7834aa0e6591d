// soak: callers, faults and hostile clients at the same time, for minutes, against the real
// services. Exit code 1 when an answer, a footprint or an end was not as it must be.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <iostream>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "chaos/callers.hpp"
#include "chaos/chaos.hpp"
#include "support/eventually.hpp"
#include "support/http_client.hpp"
#include "support/process.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReportInterval{10'000};
constexpr std::size_t kCallers = 16;
constexpr std::size_t kHostileOfAKind = 2;

// Everything that must not be, in the order in which it was found.
class Findings {
 public:
  void add(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++count_;
    std::cout << "soak: BROKEN: " << what << std::endl;
  }
  void add_unless(bool holds, const std::string& what) {
    if (!holds) add(what);
  }
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }

 private:
  mutable std::mutex mutex_;
  std::size_t count_ = 0;
};

// A service at a fixed address whose log is thrown away: over hours it would fill the memory.
class Target {
 public:
  Target(std::string binary, std::uint16_t port, std::string flags, Findings& findings)
      : binary_(std::move(binary)), port_(port), flags_(std::move(flags)), findings_(findings) {}

  void start() {
    process_ = std::make_unique<Process>(
        std::vector<std::string>{"sh", "-c", "exec \"$0\" --port=\"$1\" $2 >/dev/null", binary_,
                                 std::to_string(port_), flags_},
        service_options());
    const bool answers =
        eventually([this] { return get(port_, "/health").status() == 200; }, kPatience);
    findings_.add_unless(answers, binary_ + " does not answer after its start");
  }
  void stop() {
    process_->signal(SIGTERM);
    const auto status = process_->wait(kPatience);
    findings_.add_unless(
        status == 0, binary_ + " stopped with " + (status ? std::to_string(*status) : "no end"));
    look_at_errors();
  }
  void kill() {
    findings_.add_unless(process_->running(), binary_ + " had ended by itself");
    process_->kill();
    look_at_errors();
  }
  void signal(int number) { process_->signal(number); }
  bool running() const { return process_->running(); }
  std::uint16_t port() const { return port_; }
  pid_t pid() const { return process_->pid(); }

 private:
  // A sanitizer's words, for example.
  void look_at_errors() {
    const auto text = process_->err();
    findings_.add_unless(text.empty(), binary_ + " wrote to stderr:\n" + text);
  }

  const std::string binary_;
  const std::uint16_t port_;
  const std::string flags_;
  Findings& findings_;
  std::unique_ptr<Process> process_;
};

// Clients of which no service must take harm. Each kind is a loop of its own; both services have
// their share.
class HostileClients {
 public:
  HostileClients(std::array<std::uint16_t, 2> ports, std::uint32_t seed) : ports_(ports) {
    for (std::size_t i = 0; i < kHostileOfAKind; ++i) {
      for (const auto kind :
           {&HostileClients::idle, &HostileClients::drip, &HostileClients::never_read,
            &HostileClients::half_heads, &HostileClients::garbage, &HostileClients::reset}) {
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
  ~HostileClients() { stop(); }

  void stop() {
    stopping_ = true;
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
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
    std::vector<std::unique_ptr<Connection>> connections;
    for (int i = 0; i < 50; ++i) {
      connections.push_back(std::make_unique<Connection>(one_port(random)));
    }
    wait(random, 100, 8'000);
  }
  void drip(std::mt19937& random) {
    Connection connection(one_port(random));
    const std::string head = "GET /call-echo?msg=drip HTTP/1.1\r\nHost: chaos\r\nX-Drip: ";
    for (std::size_t i = 0; i < 200 && !stopping_; ++i) {
      if (!connection.send(i < head.size() ? head.substr(i, 1) : "x", milliseconds(100))) break;
      wait(random, 20, 100);
    }
  }
  void never_read(std::mt19937& random) {
    Connection connection(one_port(random), ConnectionOptions{.receive_buffer = 2'048});
    std::string requests;
    for (int i = 0; i < 200; ++i) requests += "GET /metrics HTTP/1.1\r\nHost: chaos\r\n\r\n";
    connection.send(requests, milliseconds(200));
    wait(random, 100, 12'000);
    if (random() % 2 == 0) connection.reset();
  }
  void half_heads(std::mt19937& random) {
    Connection connection(one_port(random));
    const std::string request = "GET /call-echo?msg=half HTTP/1.1\r\nHost: chaos\r\n\r\n";
    connection.send(request.substr(0, 1 + random() % (request.size() - 1)));
    wait(random, 0, 200);
    if (random() % 2 == 0) connection.shutdown_write();
  }
  void garbage(std::mt19937& random) {
    Connection connection(one_port(random));
    std::string bytes(1 + random() % 4'096, '\0');
    for (char& each : bytes) each = static_cast<char>(random() & 0xFFU);
    if (random() % 2 == 0) bytes.insert(0, "GET /echo?msg=");
    connection.send(bytes, milliseconds(100));
    connection.send("\r\n\r\n", milliseconds(100));
    connection.read_until_close(milliseconds(500));
  }
  // Connects, perhaps asks, and is gone.
  void reset(std::mt19937& random) {
    for (int i = 0; i < 20 && !stopping_; ++i) {
      Connection connection(one_port(random));
      if (random() % 2 == 0) {
        connection.send("GET /call-echo?msg=gone HTTP/1.1\r\nHost: chaos\r\n\r\n");
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

// What is done to Service A, one after the other.
class Faults {
 public:
  Faults(Target& a, std::uint32_t seed) : a_(a), random_(seed) {}

  void one() {
    pause(random_, milliseconds(100), milliseconds(1'000));
    switch (random_() % 3) {
      case 0:
        ++kills_;
        a_.kill();
        pause(random_, milliseconds(0), milliseconds(200));
        a_.start();
        break;
      case 1:
        ++restarts_;
        a_.stop();
        pause(random_, milliseconds(0), milliseconds(200));
        a_.start();
        break;
      default:
        ++hangs_;
        a_.signal(SIGSTOP);
        pause(random_, milliseconds(0), milliseconds(1'500));
        a_.signal(SIGCONT);
    }
  }
  std::string summary() const {
    return "kills=" + std::to_string(kills_) + " restarts=" + std::to_string(restarts_) +
           " hangs=" + std::to_string(hangs_);
  }

 private:
  Target& a_;
  std::mt19937 random_;
  std::size_t kills_ = 0;
  std::size_t restarts_ = 0;
  std::size_t hangs_ = 0;
};

void report(Clock::duration elapsed, const Tally& tally, const Faults& faults,
            const HostileClients& hostile, const Target& a, const Target& b) {
  std::cout << "soak: " << std::chrono::duration_cast<std::chrono::seconds>(elapsed).count() << "s "
            << tally.summary() << " | " << faults.summary() << " hostile=" << hostile.done()
            << " | service-a " << to_text(footprint(a.pid())) << " | service-b "
            << to_text(footprint(b.pid())) << std::endl;
}

// How many things were not as they must be.
std::size_t soak(milliseconds time) {
  Findings findings;
  std::mt19937 random(chaos_seed());
  const auto port_a = fixed_port(random);
  const auto port_b = fixed_port(random);
  // Hostile clients would make use of all the time that a stop gives them.
  Target a(kServiceA, port_a, "--drain-timeout=1s", findings);
  Target b(kServiceB, port_b, "--service-a-url=http://127.0.0.1:" + std::to_string(port_a),
           findings);
  b.start();
  auto before = footprint(b.pid());
  a.start();
  if (findings.count() > 0) return findings.count();

  CallerOptions options{
      .port = port_b,
      .count = kCallers,
      .seed = chaos_seed(),
      // `overloaded`: hostile clients call as well, and wait for nothing.
      .reasons = {"timeout", "connection_refused", "connection_closed", "overloaded"},
      .pause = milliseconds(2)};
  Faults faults(a, chaos_seed());
  HostileClients hostile({port_a, port_b}, chaos_seed());
  auto callers = std::make_unique<Callers>(options);

  const auto start = Clock::now();
  const auto end = start + time;
  auto next_report = start + kReportInterval;
  bool warm = false;
  while (Clock::now() < end && b.running()) {
    faults.one();
    if (!warm && Clock::now() >= start + time / 4) {
      warm = true;
      before.rss_kib = footprint(b.pid()).rss_kib;
    }
    if (Clock::now() >= next_report) {
      report(Clock::now() - start, callers->so_far(), faults, hostile, a, b);
      next_report += kReportInterval;
    }
  }
  findings.add_unless(b.running(), "service-b ended by itself");
  hostile.stop();
  auto tally = callers->stop();
  if (b.running()) report(Clock::now() - start, tally, faults, hostile, a, b);
  findings.add_unless(tally.violations == 0, "what callers saw:\n" + tally.violations_text());
  findings.add_unless(tally.ok > 0, "there was no 200 at all");

  // With no fault left there are right answers and nothing else.
  options.reasons.clear();
  options.seed = chaos_seed() + 1;
  callers = std::make_unique<Callers>(options);
  findings.add_unless(callers->wait_for_ok(1'000), "too few right answers afterwards");
  tally = callers->stop();
  std::cout << "soak: afterwards " << tally.summary() << std::endl;
  findings.add_unless(tally.violations == 0, "afterwards:\n" + tally.violations_text());

  a.stop();  // with it go the connections that service-b keeps alive
  if (b.running()) {
    const auto differs = difference(b.pid(), before);
    findings.add_unless(differs.empty(), "service-b did not come back to what it was, " + differs);
    std::cout << "soak: service-b before " << to_text(before) << ", after "
              << to_text(footprint(b.pid())) << std::endl;
  }
  b.stop();
  std::cout << "soak: " << (findings.count() == 0 ? "nothing broke" : "SOMETHING BROKE")
            << ", CHAOS_SEED=" << chaos_seed() << std::endl;
  return findings.count();
}

}  // namespace
}  // namespace tests::chaos

int main(int argc, char** argv) {
  CLI::App app("Callers, faults and hostile clients against the real services.");
  double minutes = 2;
  app.add_option("MINUTES", minutes, "how long")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 1e4));
  CLI11_PARSE(app, argc, argv);
  return tests::chaos::soak(std::chrono::milliseconds(static_cast<long>(minutes * 60'000))) == 0
             ? 0
             : 1;
}
