#pragma once

#include <exception>
#include <functional>

#include "common/http/fiber.hpp"

namespace tests {

/// Runs `body` on a fiber of `loop`, and the loop until `body` has ended. Throws what it throws.
inline void run_on_fiber(common::http::Loop& loop, std::function<void()> body) {
  class Body final : public common::http::Fiber {
   public:
    Body(common::http::Loop& on, std::function<void()> work) : Fiber(on), work_(std::move(work)) {}
    std::exception_ptr thrown;

   private:
    void run() override { work_(); }
    void finished(std::exception_ptr error) override {
      thrown = error;
      loop().stop();
    }
    const std::function<void()> work_;
  };
  Body fiber(loop, std::move(body));
  loop.post([&] { fiber.start(); });
  loop.run();
  if (fiber.thrown) std::rethrow_exception(fiber.thrown);
}

}  // namespace tests
