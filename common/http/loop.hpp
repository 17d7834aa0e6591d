#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
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

/// What waits in a loop for its socket, for a point in time, or for both: a connection, a timer.
/// Belongs to its loop, from emplace() to close(), and is used on the loop's thread only.
class Watcher {
 public:
  explicit Watcher(Loop& loop);
  virtual ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  /// `events`: of epoll_ctl(2), or 0 after Loop::again(). Must not throw.
  virtual void on_events(std::uint32_t events) = 0;
  /// The deadline has passed; there is none now. Must not throw.
  virtual void on_deadline() = 0;
  /// The process shall end soon. Must not throw.
  virtual void on_drain() {}

  Loop& loop() const { return loop_; }

 protected:
  /// Takes `fd` over, in place of the one before, and waits for `events`. Returns false for want of
  /// memory in the kernel.
  bool watch(int fd, std::uint32_t events);
  /// kNever: none. Moving it to a later time costs nothing, so it may be done for each request.
  /// Does not throw, nor does Loop::again().
  void set_deadline(Clock::time_point deadline);
  /// The end of this object, as soon as the loop has left it; on_ functions are not called any
  /// more.
  void close();

  int fd() const { return fd_; }
  bool waits_its_turn() const { return turn_.empty(); }  // after Loop::again()

 private:
  friend class Loop;
  void close_fd();
  void arm(Clock::time_point when);

  Loop& loop_;
  int fd_ = -1;
  bool closed_ = false;
  std::list<Watcher*> turn_{this};  // empty while its node is in the loop's
  const std::list<Watcher*>::iterator node_ = turn_.begin();
  Clock::time_point deadline_ = kNever;
  Clock::time_point armed_ = kNever;  // when the loop looks at deadline_
  std::list<std::unique_ptr<Watcher>>::iterator self_;
};

/// One thread's epoll(7), its timers, and all that waits in them. Only post() and stop() may be
/// called from other threads.
class Loop {
 public:
  /// `index`: which of several this is, for those who keep something for each. Throws
  /// std::system_error.
  explicit Loop(std::size_t index = 0);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  std::size_t index() const { return index_; }

  /// Serves until stop(), on the thread that calls it.
  void run();
  void stop();
  /// Has `task`, which must not throw, called on the loop's thread, in the order of the calls.
  void post(std::function<void()> task);
  void after(std::chrono::milliseconds delay, std::function<void()> task);

  /// Makes a watcher.
  template <typename Kind, typename... Arguments>
  Kind& emplace(Arguments&&... arguments) {
    Watchers made(1);
    made.front() = std::make_unique<Kind>(*this, std::forward<Arguments>(arguments)...);
    watchers_.splice(watchers_.begin(), made);
    watchers_.front()->self_ = watchers_.begin();
    return static_cast<Kind&>(*watchers_.front());
  }

  /// Has on_events(0) of `watcher` called once more, when all others that wait for that, and those
  /// whose sockets are ready, have had their turn.
  void again(Watcher& watcher);
  /// on_drain() of all.
  void drain();

 private:
  friend class Watcher;
  using Watchers = std::list<std::unique_ptr<Watcher>>;

  Clock::time_point next_deadline() const;
  int timeout() const;
  void run_posted();
  void fire_timers();

  const std::size_t index_;
  int epoll_ = -1;
  int wake_ = -1;  // eventfd(2)
  Watchers watchers_;
  Watchers closed_;  // kept until nothing of this turn can refer to them any more
  std::list<Watcher*> again_;
  std::set<std::pair<Clock::time_point, Watcher*>> timers_;  // of all watchers
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;  // guards posted_
  std::vector<std::function<void()>> posted_;
};

}  // namespace common::http
