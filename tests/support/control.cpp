#include "support/control.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <latch>
#include <list>

#include "support/services.hpp"

namespace tests {

using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

double in_ms(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

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
    const auto wanted = Clock::now() + milliseconds(2);
    std::this_thread::sleep_until(wanted);
    const auto late = std::chrono::duration_cast<microseconds>(Clock::now() - wanted);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      ++wakes_;
      lost_ += std::max(late - milliseconds(1), microseconds(0));
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

Timing Control::time(const std::function<void()>& work) {
  const auto lost_before = lost();
  const auto start = Clock::now();
  work();
  const auto took = Clock::now() - start;
  return {took, lost_by_now() - lost_before};
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

std::vector<Timing> time_at_once(std::size_t count, const std::function<void(std::size_t)>& call) {
  Control control;
  std::vector<Timing> timings(count);
  std::latch ready(static_cast<std::ptrdiff_t>(count));
  std::list<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      ready.arrive_and_wait();
      timings[i] = control.time([&] { call(i); });
    });
  }
  for (auto& thread : threads) thread.join();
  return timings;
}

void expect_in_time(std::vector<Timing> timings, Clock::duration limit, const std::string& what,
                    Clock::duration slowest) {
  ASSERT_FALSE(timings.empty()) << what;
  if (kSanitized) limit += kSanitizerSlack;
  slowest = std::max(slowest, limit);
  for (const auto& each : timings) {
    EXPECT_LE(in_ms(each.took), in_ms(slowest + each.lost))
        << "ms: " << what << " " << each.what << ", one of " << timings.size()
        << "; the machine lost " << in_ms(each.lost) << " ms";
  }
  const auto middle = timings.begin() + static_cast<std::ptrdiff_t>(timings.size() / 2);
  std::ranges::nth_element(timings, middle, {}, &Timing::took);
  EXPECT_LE(in_ms(middle->took), in_ms(limit))
      << "ms: " << what << ", the median of " << timings.size();
}

}  // namespace tests
