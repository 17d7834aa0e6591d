#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "chaos/chaos.hpp"
#include "support/control.hpp"
#include "support/http_client.hpp"

// Callers that do not stop, and that judge each answer they get.

namespace tests::chaos {

using Reasons = std::set<std::string, std::less<>>;

struct CallerOptions {
  std::uint16_t port = 0;
  std::string path = "/call-echo";  // or /echo, or /health
  std::size_t count = 16;
  std::uint32_t seed = chaos_seed();
  // The reasons of Service B's 503s that fit what is being done to it, and "full" where either
  // service may say "too many open connections". Empty: nothing but 200s.
  Reasons reasons{};
  // An answer after more than that and what the machine lost meanwhile (see Control) is a
  // violation, and so is it when half of all timeouts take more. A timeout that is not among the
  // reasons is one unless the machine was busy.
  milliseconds limit{1'050};
  // Between an answer and the next call of the same caller.
  milliseconds pause{1};
  // Whether the service may stop. While nobody listens the caller tries again, or is done. A
  // kept-alive connection may be closed instead of the next request being read, as HTTP allows: the
  // caller repeats the request on a new one.
  enum class Stops { kNever, kAndStarts, kAndThatIsAll } stops = Stops::kNever;
};

// What callers saw.
struct Tally {
  // "200", "503 timeout", "refused", "repeated", and "excused" for answers that were too late, or
  // timeouts that do not fit, which a busy machine accounts for.
  std::map<std::string, std::size_t, std::less<>> counts;
  // The ids of requests that were repeated. They must be in no log: what is there was taken.
  std::set<std::string, std::less<>> repeated_ids;
  std::map<long, std::size_t> durations;  // answers by their whole milliseconds
  std::map<long, std::size_t> timeouts;   // of them, those with reason=timeout
  std::vector<std::string> violations;    // the first ones of each caller

  std::size_t count(std::string_view what) const;
  void add(const Tally& other);
  // One line: what was answered, how often, how fast.
  std::string summary() const;
};

// Fails the test for a violation, and for requests that were taken and then lost.
void expect_no_violation(const Tally& tally, const std::string& log = {});

// `count` callers, each a thread with one kept-alive connection, from construction to stop(). No
// two requests carry the same msg, and each 200 must hold the msg of its own request. Threads
// inherit the network namespace of the one that constructs this.
class Callers {
 public:
  explicit Callers(CallerOptions options);
  ~Callers();
  Callers(const Callers&) = delete;
  Callers& operator=(const Callers&) = delete;

  // Each ends after the answer it waits for. What is wrong with all of them is found here.
  Tally stop();
  Tally so_far() const;

  // What the machine made late meanwhile.
  Control& control() { return control_; }
  // How many 503s there were so far; cheap.
  std::size_t unavailable() const { return unavailable_; }
  // Wait for so many further ones; for all to be done by themselves, see kAndThatIsAll. The test
  // fails when that takes too long.
  void wait_for_ok(std::size_t more);
  void wait_for_unavailable(std::size_t more);
  void wait_until_done();

 private:
  struct Caller {
    std::size_t number = 0;
    std::mt19937 random;
    std::unique_ptr<Connection> connection;
    std::size_t sent = 0;  // requests, ever
    bool done = false;
    mutable std::mutex mutex;  // guards tally
    Tally tally;
    std::thread thread;
  };

  void wait_for(const std::function<bool()>& what) const;
  void run(Caller& caller);
  void call(Caller& caller);
  void judge(Caller& caller, const std::string& msg, const std::string& id,
             const Response& response, std::chrono::microseconds duration,
             std::chrono::microseconds lost_before);
  std::string right_body(const std::string& msg) const;

  const CallerOptions options_;
  Control control_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> running_{0};
  std::atomic<std::size_t> ok_{0};
  std::atomic<std::size_t> unavailable_{0};
  std::list<Caller> callers_;
};

}  // namespace tests::chaos
