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

enum class Target { kServiceA, kServiceB };  // /echo or /call-echo

struct CallerOptions {
  std::uint16_t port = 0;
  Target target = Target::kServiceB;
  std::size_t count = 16;
  std::uint32_t seed = 1;
  // The reasons of Service B's 503s that fit what is being done to it. Empty: nothing but 200s.
  std::set<std::string, std::less<>> reasons{};
  // An answer after more than that and what the machine lost meanwhile (see Control) is a
  // violation, and so is it when half of all timeouts take more. A timeout that is not among the
  // reasons is one unless the machine was busy.
  std::chrono::milliseconds limit{1'050};
  // Between an answer and the next call of the same caller.
  std::chrono::milliseconds pause{1};
  // Whether the service may be down: no connection is counted as `refused`, and tried again.
  bool may_be_refused = false;
  // With may_be_refused: the caller is done once it was refused.
  bool ends_when_refused = false;
  // Whether the service may close a kept-alive connection instead of reading the next request, as
  // HTTP allows: the caller repeats the request on a new one, and it is counted as `repeated`.
  bool may_be_closed = false;
  // Whether the service may answer 503 "too many open connections".
  bool may_be_full = false;
};

// What callers saw.
struct Tally {
  std::size_t calls = 0;  // that were answered
  std::size_t ok = 0;
  std::map<std::string, std::size_t, std::less<>> unavailable;  // 503s by their reason
  std::size_t full = 0;
  std::size_t refused = 0;
  std::size_t repeated = 0;
  std::size_t repeated_new = 0;  // of them on a connection that had carried nothing before
  // The ids of requests that were repeated. They must be in no log: what is there was taken.
  std::vector<std::string> repeated_ids;
  // Answers that were too late, or timeouts that do not fit, which a busy machine accounts for.
  std::size_t excused = 0;
  std::map<long, std::size_t> durations;  // answers by their whole milliseconds
  std::map<long, std::size_t> timeouts;   // of them, those with reason=timeout
  std::chrono::microseconds slowest{};
  std::size_t violations = 0;
  std::vector<std::string> first_violations;

  void add_duration(std::chrono::microseconds duration);
  void violation(std::string what);
  void add(const Tally& other);
  std::size_t unavailable_for(std::string_view reason) const;
  // In whole milliseconds, rounded up.
  long percentile(double share) const;
  // One line: what was answered, how often, how fast.
  std::string summary() const;
  // The first of them, one in a line; empty when there are none.
  std::string violations_text() const;
};

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
  // Waits until all are done by themselves: see ends_when_refused. False after `timeout`.
  [[nodiscard]] bool wait(std::chrono::milliseconds timeout);
  Tally so_far() const;

  // What the machine made late meanwhile.
  Control& control() { return control_; }
  // How many answers of that kind there were so far; cheap.
  std::size_t ok() const { return ok_; }
  std::size_t unavailable() const { return unavailable_; }
  // Waits for `more` further ones. False after `timeout`.
  [[nodiscard]] bool wait_for_ok(std::size_t more, std::chrono::milliseconds timeout = kPatience);
  [[nodiscard]] bool wait_for_unavailable(std::size_t more,
                                          std::chrono::milliseconds timeout = kPatience);

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

  void run(Caller& caller);
  void call(Caller& caller);
  void judge(Caller& caller, const std::string& msg, const std::string& id,
             const Response& response, std::chrono::microseconds duration,
             std::chrono::microseconds lost_before);
  std::string new_msg(Caller& caller) const;

  const CallerOptions options_;
  Control control_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> running_{0};
  std::atomic<std::size_t> ok_{0};
  std::atomic<std::size_t> unavailable_{0};
  std::list<Caller> callers_;
};

}  // namespace tests::chaos
