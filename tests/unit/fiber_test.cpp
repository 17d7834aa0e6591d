#include "common/http/fiber.hpp"

#include <gtest/gtest.h>

#include <list>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "unit/run_on_fiber.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

/// Runs `work`, and says when it has ended.
class Worker final : public Fiber {
 public:
  Worker(Loop& loop, std::function<void()> work) : Fiber(loop), work_(std::move(work)) {}
  bool ended = false;
  std::exception_ptr error;

 private:
  void run() override { work_(); }
  void finished(std::exception_ptr thrown) override {
    ended = true;
    error = std::move(thrown);
  }
  const std::function<void()> work_;
};

TEST(Fiber, SleepsWhileOthersRun) {
  Loop loop;
  std::string order;
  std::list<Worker> fibers;
  tests::run_on_fiber(loop, [&] {
    loop.post([&] {
      for (const char name : {'a', 'b', 'c'}) {
        fibers.emplace_back(loop, [&order, name] {
          order += name;
          sleep_for(std::chrono::milliseconds(100 * (3 - (name - 'a'))));
          order += static_cast<char>(name - 'a' + 'A');
        });
        fibers.back().start();
      }
    });
    while (fibers.size() < 3 || order.size() < 6) sleep_for(1ms);
  });
  EXPECT_EQ(order, "abcCBA");
  for (const auto& fiber : fibers) EXPECT_TRUE(fiber.ended);
}

TEST(Fiber, IsResumedByAPostOrByTheDeadlineWhicheverComesFirst) {
  Loop loop;
  bool by_post = false;
  bool by_deadline = true;
  std::thread poster;
  tests::run_on_fiber(loop, [&] {
    auto& fiber = Fiber::current();
    poster = std::thread([&] { loop.post([&] { fiber.resume(); }); });
    by_post = Fiber::suspend_until(Clock::now() + 10s);
    by_deadline = Fiber::suspend_until(Clock::now() + 5ms);
  });
  poster.join();
  EXPECT_TRUE(by_post);
  EXPECT_FALSE(by_deadline);
}

TEST(Fiber, HandsOutWhatItThrows) {
  Loop loop;
  EXPECT_THROW(tests::run_on_fiber(loop,
                                   [] {
                                     sleep_for(1ms);
                                     throw std::runtime_error("on purpose");
                                   }),
               std::runtime_error);
}

// The C++ runtime keeps the caught exceptions of a thread in one list.
TEST(Fiber, MayWaitInACatchBlockWhileAnotherOneThrows) {
  Loop loop;
  std::vector<std::string> seen;
  std::list<Worker> fibers;
  tests::run_on_fiber(loop, [&] {
    loop.post([&] {
      for (const std::string name : {"first", "second", "third"}) {
        fibers.emplace_back(loop, [&seen, name] {
          try {
            throw std::runtime_error(name);
          } catch (const std::exception& error) {
            sleep_for(name == "first" ? 200ms : 5ms);
            try {
              throw;
            } catch (const std::exception& again) {
              seen.push_back(again.what());
            }
            EXPECT_EQ(error.what(), name);
          }
          EXPECT_EQ(std::uncaught_exceptions(), 0);
        });
        fibers.back().start();
      }
    });
    while (seen.size() < 3) sleep_for(1ms);
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"second", "third", "first"}));
}

TEST(Fiber, TenThousandMayWaitAndTheirStacksAreUsedAgain) {
#if defined(__SANITIZE_THREAD__)
  constexpr std::size_t kMany = 100;  // each costs the sanitizer more than a megabyte
#else
  constexpr std::size_t kMany = 10'000;
#endif
  Loop loop;
  std::list<Worker> fibers;
  std::size_t woken = 0;
  tests::run_on_fiber(loop, [&] {
    for (int round = 0; round < 2; ++round) {
      fibers.clear();
      woken = 0;
      loop.post([&] {
        for (std::size_t i = 0; i < kMany; ++i) {
          const auto work = [&woken] {
            sleep_for(1ms);
            ++woken;
          };
          fibers.emplace_back(loop, work).start();
        }
      });
      while (woken < kMany) sleep_for(1ms);
    }
  });
  EXPECT_EQ(woken, kMany);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(FiberDeathTest, AnOverflowOfItsStackEndsTheProcessAndTouchesNothingElse) {
  const auto overflow = [] {
    Loop loop;
    tests::run_on_fiber(loop, [] {
      std::function<int(int)> recurse = [&](int depth) {
        volatile char page[1024] = {};
        page[0] = static_cast<char>(depth);
        return depth > 1'000 ? page[0] : recurse(depth + 1) + page[0];
      };
      recurse(0);
    });
  };
  EXPECT_EXIT(overflow(), testing::KilledBySignal(SIGSEGV), "");
}
#endif

}  // namespace
}  // namespace common::http
