#include "common/http/fiber.hpp"

#include <cxxabi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <vector>

#ifdef __has_feature  // clang
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(UNDER_THREAD_SANITIZER)  // this file itself is not: CMakeLists.txt tells why
#include <sanitizer/tsan_interface.h>
// Debian's cpp-httplib is not instrumented: the sanitizer sees what it reads, not what guards that.
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:libcpp-httplib.so\n";
}
#endif
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(start, end) 0
#endif

namespace common::http {
namespace {

constexpr std::size_t kStackSize = 131'072;
constexpr std::size_t kMaxWarmStacks = 64;  // free ones of a thread that keep their memory

/// The stacks of a thread: the one that was used last, which the CPU's caches know, is used next.
class StackPool {
 public:
  ~StackPool() {
    for (char* const stack : free_) munmap(stack, kStackSize);
  }

  char* take() {
    if (!free_.empty()) {
      char* const stack = free_.back();
      free_.pop_back();
      return stack;
    }
    free_.reserve(++made_);  // so that give_back() needs no memory
    void* const mapped = mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    char* const stack = static_cast<char*>(mapped);
    mprotect(stack, guard_size(), PROT_NONE);
    [[maybe_unused]] const auto id =
        VALGRIND_STACK_REGISTER(stack + guard_size(), stack + kStackSize);
    return stack;
  }

  void give_back(char* stack) noexcept {
    // What a burst of waiting requests has touched goes back to the kernel.
    if (free_.size() >= kMaxWarmStacks) {
      madvise(stack + guard_size(), kStackSize - guard_size(), MADV_DONTNEED);
    }
    free_.push_back(stack);
  }

  static std::size_t guard_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

 private:
  std::vector<char*> free_;
  std::size_t made_ = 0;
};

thread_local StackPool stack_pool;
thread_local Fiber* current_fiber = nullptr;

}  // namespace

/// Boost.Context's stack allocator.
struct Fiber::Stack {
  Fiber& fiber;

  boost::context::stack_context allocate() const {
    boost::context::stack_context stack;
    stack.size = kStackSize;
    stack.sp = stack_pool.take() + kStackSize;
    fiber.stack_bottom_ = static_cast<char*>(stack.sp) - kStackSize;
    fiber.stack_size_ = kStackSize;
    return stack;
  }
  static void deallocate(boost::context::stack_context& stack) noexcept {
    stack_pool.give_back(static_cast<char*>(stack.sp) - kStackSize);
  }
};

/// Tells the sanitizers of one switch: constructed before it, destroyed behind it.
struct Fiber::Switch {
#if defined(__SANITIZE_ADDRESS__)
  /// Into `fiber`, from its loop.
  explicit Switch(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack_bottom_, fiber.stack_size_);
  }
  ~Switch() { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
  void* fake_stack = nullptr;

  inline static thread_local const void* loop_bottom = nullptr;
  inline static thread_local std::size_t loop_size = 0;

  static void entered(Fiber& fiber) {
    __sanitizer_finish_switch_fiber(fiber.fake_stack_, &loop_bottom, &loop_size);
  }
  /// From `fiber` to its loop; `last`: it will not be entered again.
  static void leaving(Fiber& fiber, bool last) {
    __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack_, loop_bottom, loop_size);
  }
#elif defined(UNDER_THREAD_SANITIZER)
  explicit Switch(Fiber& fiber) {
    if (fiber.tsan_fiber_ == nullptr) fiber.tsan_fiber_ = __tsan_create_fiber(0);
    fiber.tsan_caller_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber.tsan_fiber_, 0);
  }
  ~Switch() = default;
  static void entered(Fiber&) {}
  static void leaving(Fiber& fiber, bool) { __tsan_switch_to_fiber(fiber.tsan_caller_, 0); }
#else
  explicit Switch(Fiber&) {}
  static void entered(Fiber&) {}
  static void leaving(Fiber&, bool) {}
#endif
};

Fiber& Fiber::current() { return *current_fiber; }

void Fiber::start() {
  try {
    context_ = boost::context::fiber(std::allocator_arg, Stack{*this},
                                     [this](boost::context::fiber&& caller) {
                                       Switch::entered(*this);
                                       caller_ = std::move(caller);
                                       try {
                                         run();
                                       } catch (...) {
                                         error_ = std::current_exception();
                                       }
                                       Switch::leaving(*this, true);
                                       return std::move(caller_);
                                     });
  } catch (const std::bad_alloc&) {
    error_ = std::current_exception();
  }
  if (context_) return resume();
  finished(std::move(error_));
}

void Fiber::resume() {
  auto* const globals = abi::__cxa_get_globals();
  Exceptions ours;
  std::memcpy(static_cast<void*>(&ours), globals, sizeof ours);
  std::memcpy(static_cast<void*>(globals), &exceptions_, sizeof exceptions_);
  current_fiber = this;
  {
    const Switch told(*this);
    context_ = std::move(context_).resume();
  }
  current_fiber = nullptr;
  std::memcpy(static_cast<void*>(&exceptions_), globals, sizeof exceptions_);
  std::memcpy(static_cast<void*>(globals), &ours, sizeof ours);
  if (context_) return;
#if defined(UNDER_THREAD_SANITIZER)
  __tsan_destroy_fiber(tsan_fiber_);
#endif
  finished(std::move(error_));
}

void Fiber::suspend() {
  auto& fiber = current();
  Switch::leaving(fiber, false);
  fiber.caller_ = std::move(fiber.caller_).resume();
  Switch::entered(fiber);
}

bool Fiber::suspend_until(Clock::time_point deadline) {
  /// Resumes the fiber at the deadline; lives on its stack.
  class Alarm final : public Watcher {
   public:
    Alarm(Fiber& fiber, Clock::time_point deadline) : Watcher(fiber.loop()), fiber_(fiber) {
      set_deadline(deadline);
    }
    void on_deadline() override {
      rang = true;
      fiber_.resume();
    }
    bool rang = false;

   private:
    Fiber& fiber_;
  };
  Alarm alarm(current(), deadline);
  suspend();
  return !alarm.rang;
}

}  // namespace common::http
