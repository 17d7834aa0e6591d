#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace common::http {

using Clock = std::chrono::steady_clock;
inline constexpr auto kNever = Clock::time_point::max();

class Loop;

/// What waits in a loop for a socket, for a deadline, or for both. Used on the loop's thread only.
/// Its functions must not throw.
class Watcher {
 public:
  explicit Watcher(Loop& loop) : loop_(loop) {}
  virtual ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  /// `events`: those of epoll_ctl(2), or 0 after run_again_later().
  virtual void on_events(std::uint32_t) {}
  /// The deadline has passed, and is kNever now.
  virtual void on_deadline() = 0;
  /// The process is about to stop.
  virtual void on_drain() {}

  Loop& loop() const { return loop_; }

 protected:
  /// Owns `fd` from now on, instead of the one before, and waits for `events`. Returns false where
  /// the kernel has no memory for it.
  bool watch(int fd, std::uint32_t events);
  int fd() const { return fd_; }

  /// kNever: none. To move it to a later time costs nothing, so it may be done for each request.
  void set_deadline(Clock::time_point deadline);

  /// Calls on_events(0) after the other watchers that are ready have been called.
  void run_again_later();
  bool waits_to_run_again() const { return queued_; }

  /// Closes the socket. No function of this is called any more. One that was made by
  /// Loop::emplace() is destroyed when the loop has left it.
  void close();

 private:
  friend class Loop;
  void close_fd();
  void schedule(Clock::time_point when);

  Loop& loop_;
  int fd_ = -1;
  bool closed_ = false;
  bool queued_ = false;
  Clock::time_point deadline_ = kNever;
  Clock::time_point scheduled_ = kNever;  // when the loop looks at deadline_, not later than it
  std::list<std::unique_ptr<Watcher>>::iterator self_;
};

/// The epoll(7) of one thread, its timers, and what waits for them. Only post() and stop() may be
/// called from other threads.
class Loop {
 public:
  /// `index`: its number among several loops. Throws std::system_error.
  explicit Loop(std::size_t index = 0);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  std::size_t index() const { return index_; }

  /// Runs on the calling thread until stop().
  void run();
  void stop();
  /// Calls `task` on the loop's thread, in the order of the posts. `task` must not throw.
  void post(std::function<void()> task);

  /// Makes a watcher that belongs to this loop until its close().
  template <typename Kind, typename... Arguments>
  Kind& emplace(Arguments&&... arguments) {
    auto made = std::make_unique<Kind>(*this, std::forward<Arguments>(arguments)...);
    auto& watcher = *made;
    watchers_.push_front(std::move(made));
    watcher.self_ = watchers_.begin();
    return watcher;
  }

  /// Calls on_drain() of all watchers that emplace() has made.
  void drain();

 private:
  friend class Watcher;
  using Watchers = std::list<std::unique_ptr<Watcher>>;

  int timeout() const;
  void run_posted();
  void run_timers();

  const std::size_t index_;
  int epoll_ = -1;
  int wake_ = -1;  // eventfd(2)
  Watchers watchers_;
  Watchers closed_;  // destroyed at the end of a turn: its events may still name them
  std::deque<Watcher*> run_again_;
  std::set<std::pair<Clock::time_point, Watcher*>> timers_;
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;  // guards posted_
  std::vector<std::function<void()>> posted_;
};

}  // namespace common::http
