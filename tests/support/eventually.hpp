#pragma once

#include <chrono>
#include <thread>

namespace tests {

// Asks every 5 ms until `predicate()` is true; false when it still is not after `timeout`. It is
// asked at least once, and once more at the end. For conditions outside this process, which nothing
// signals.
template <typename Predicate>
[[nodiscard]] bool eventually(Predicate&& predicate,
                              std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!predicate()) {
    if (std::chrono::steady_clock::now() >= deadline) return predicate();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace tests
