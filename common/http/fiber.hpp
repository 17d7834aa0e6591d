#pragma once

#include <boost/context/fiber.hpp>
#include <exception>
#include <functional>

#include "common/http/loop.hpp"

namespace common::http {

/// A stackful coroutine on a Loop: plain blocking code that waits without holding the loop's thread
/// (Boost.Context). It stays on its loop, and a switch costs some 10 ns.
///
/// The code on a fiber must not
/// - block the thread: no sleep(3), no blocking read(2), no join, no getaddrinfo(3). A wait is one
///   of the functions below, or Client::get();
/// - hold a lock across a wait: another fiber of the same thread would wait for it for ever;
/// - keep a reference to a thread_local (errno is one) across a wait: other fibers change it;
/// - recurse over input, or keep large arrays: a stack has 128 KiB, and a guard page below.
///   std::regex recurses for each character;
/// - let something that it refers to be destroyed while it waits.
/// It may wait inside a catch block: each fiber has the list of exceptions in flight of its own.
class Fiber {
 public:
  explicit Fiber(Loop& loop) : loop_(loop) {}
  /// REQUIRES: not started, or finished.
  virtual ~Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs run() until its first wait.
  void start();
  /// Goes on behind suspend(). Call both on the loop's thread, and not on a fiber.
  void resume();

  Loop& loop() const { return loop_; }

  /// The fiber that calls this. REQUIRES: there is one.
  static Fiber& current();
  /// Waits until somebody calls resume(). On a fiber.
  static void suspend();
  /// The same, but no longer than until `deadline`. Returns whether it was resumed before.
  static bool suspend_until(Clock::time_point deadline);

 protected:
  /// On a stack of its own.
  virtual void run() = 0;
  /// On the loop's stack, after run() has returned, or has thrown `error`; or where there is no
  /// memory for a stack: std::bad_alloc. May destroy this.
  virtual void finished(std::exception_ptr error) = 0;

 private:
  struct Stack;
  struct Switch;

  // As in the Itanium C++ ABI, section 2.2.2, __cxa_eh_globals: what is caught and not yet handled.
  struct Exceptions {
    void* caught = nullptr;
    unsigned int uncaught = 0;
  };

  Loop& loop_;
  boost::context::fiber context_;  // while suspended: where it goes on
  boost::context::fiber caller_;   // while it runs: who has resumed it
  std::exception_ptr error_;
  Exceptions exceptions_;

  // What the sanitizers are told of the stacks; unused without them.
  void* fake_stack_ = nullptr;
  const void* stack_bottom_ = nullptr;
  std::size_t stack_size_ = 0;
  void* tsan_fiber_ = nullptr;
  void* tsan_caller_ = nullptr;
};

/// Has the current fiber sleep.
inline void sleep_for(std::chrono::milliseconds time) { Fiber::suspend_until(Clock::now() + time); }

}  // namespace common::http
