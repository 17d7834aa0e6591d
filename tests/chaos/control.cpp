#include "chaos/control.hpp"

#include <cmath>

namespace tests::chaos {

using std::chrono::microseconds;
using std::chrono::milliseconds;

Control::Control() : thread_([this] { run(); }) {}

Control::~Control() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void Control::run() {
  while (true) {
    const auto wanted = Clock::now() + milliseconds(5);
    std::this_thread::sleep_until(wanted);
    const auto late = std::chrono::duration_cast<microseconds>(Clock::now() - wanted);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      ++wakes_;
      lost_ += late;
      ++late_[std::chrono::ceil<milliseconds>(late).count()];
    }
    changed_.notify_all();
  }
}

microseconds Control::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

microseconds Control::lost_by_now() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this, before = wakes_] { return wakes_ > before; });
  return lost_;
}

long Control::percentile(double share) const {
  const std::lock_guard lock(mutex_);
  return chaos::percentile(late_, share);
}

long percentile(const std::map<long, std::size_t>& counts, double share) {
  std::size_t all = 0;
  for (const auto& [value, count] : counts) all += count;
  const auto wanted = static_cast<std::size_t>(std::ceil(share * static_cast<double>(all)));
  std::size_t seen = 0;
  for (const auto& [value, count] : counts) {
    seen += count;
    if (seen >= wanted) return value;
  }
  return 0;
}

}  // namespace tests::chaos
