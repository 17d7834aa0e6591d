#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "support/posix.hpp"

namespace tests::chaos {

// A thread that does nothing but sleep, 5 ms at a time, and measures how late it wakes: the control
// beside which a late answer is judged. What wakes it late, another program for example, makes the
// services late as well. It loses some 20 ms a second when nothing else runs, and half of its time
// when twenty others want the same two processors.
class Control {
 public:
  Control();
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // By how much it woke too late so far, in all. For the start of a time to be judged.
  std::chrono::microseconds lost() const;
  // The same for the end of it: waits until it wakes again, so that nothing is left out.
  std::chrono::microseconds lost_by_now();
  // How late it woke, in whole milliseconds, rounded up.
  long percentile(double share) const;

 private:
  void run();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::size_t wakes_ = 0;
  std::chrono::microseconds lost_{};
  std::map<long, std::size_t> late_;  // wakes by their whole milliseconds
  std::thread thread_;
};

// The value that `share` of all that `counts` counts do not exceed.
long percentile(const std::map<long, std::size_t>& counts, double share);

}  // namespace tests::chaos
