#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "support/posix.hpp"

// Judging promises in time on a machine that does other things as well.

namespace tests {

// How long something took, and what a Control lost meanwhile.
struct Timing {
  Clock::duration took{};
  Clock::duration lost{};
  std::string what{};  // for a failure's message
};

// A thread that does nothing but sleep, 2 ms at a time, and measures how late it wakes: the control
// beside which a late answer is judged. What wakes it late, another program for example, makes the
// services late as well.
class Control {
 public:
  Control();
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // By how much it woke too late so far, in all, but for 1 ms of each wake: on a machine that does
  // nothing else this is 0. For the start of a time to be judged.
  std::chrono::microseconds lost() const;
  // The same for the end of it: waits until it wakes again, so that nothing is left out.
  std::chrono::microseconds lost_by_now();
  // Does `work`, and measures it.
  Timing time(const std::function<void()>& work);

 private:
  void run();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::size_t wakes_ = 0;
  std::chrono::microseconds lost_{};
  std::thread thread_;
};

// The value that `share` of all that `counts` counts do not exceed.
long percentile(const std::map<long, std::size_t>& counts, double share);

// Does `call(i)` for each i below `count`, all at the same time, and measures each.
std::vector<Timing> time_at_once(std::size_t count, const std::function<void(std::size_t)>& call);

// Fails the test unless there are timings, half of them are within `limit`, and each is within
// `slowest`, or else `limit`, and what the machine lost meanwhile. The services have
// kSanitizerSlack more under a sanitizer. `what` names the promise.
void expect_in_time(std::vector<Timing> timings, Clock::duration limit, const std::string& what,
                    Clock::duration slowest = {});

}  // namespace tests
