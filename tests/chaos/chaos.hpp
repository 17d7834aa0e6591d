#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "support/eventually.hpp"
#include "support/process.hpp"
#include "support/services.hpp"

// What all chaos tests share: the seed, what they allow for, two services that are killed and
// started again at the same addresses.

namespace tests::chaos {

using std::chrono::milliseconds;

// Nothing that works takes this long, however busy the machine is.
inline constexpr milliseconds kPatience{60'000};

// Added to limits: hundreds of callers share the processors with the services that they judge, and
// a sanitizer makes those slow. What else the machine does is measured, see Control; promises to
// the millisecond are judged without load, see integration/in_time_test.cpp.
inline const milliseconds kSlack{kSanitized ? 1'500 : 100};

// Of the environment variable CHAOS_SEED, otherwise a new one in each run. Printed when it is first
// asked for, so that a run can be repeated.
std::uint32_t chaos_seed();

// A whole number from `low` to `high`.
int draw(std::mt19937& random, int low, int high);
// Sleeps that many milliseconds: faults come at moments that no condition foretells.
void pause(std::mt19937& random, int low, int high);

struct Footprint {
  long files = 0;
  long threads = 0;
  long rss_kib = 0;
};
Footprint footprint(pid_t pid);
std::string to_text(const Footprint& footprint);

// A service at an address that stays the same from start to start.
class Restartable {
 public:
  // Does not start it.
  explicit Restartable(std::string binary);

  // These hold from the next start on.
  std::vector<std::string> flags;
  ProcessOptions options;
  bool keeps_log = true;  // false: over hours it would fill the memory

  // REQUIRES: it is not running. Waits until it answers; the test fails when it does not.
  void start();
  // REQUIRES: it is running. Waits for the end, and returns the exit status.
  std::optional<int> end(int signal);
  // SIGTERM, and the test fails unless the status is 0.
  void stop() { EXPECT_EQ(end(SIGTERM), 0) << binary_; }
  void kill() { EXPECT_EQ(end(SIGKILL), 128 + SIGKILL) << binary_; }
  void hang() { process_->hang(); }
  void resume() { process_->signal(SIGCONT); }

  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  pid_t pid() const { return process_->pid(); }
  bool running() const { return process_ && process_->running(); }
  // All that was logged since the first start, of processes that have ended.
  const std::string& log() const { return log_; }

 private:
  const std::string binary_;
  const std::uint16_t port_ = lasting_port();
  std::unique_ptr<Process> process_;
  std::string log_;
};

// Service A, and Service B that calls it; neither runs.
class Chaos : public ::testing::Test {
 protected:
  // Kills Service A, with which go the connections that are kept alive, and stops Service B once it
  // is as it was before.
  void expect_nothing_left(const Footprint& before);
  void expect_right_answer() const;

  std::mt19937 random_{chaos_seed()};
  Restartable a_{kServiceA};
  Restartable b_{kServiceB};

  Chaos() { b_.flags = {"--service-a-url=" + a_.url()}; }
};

// Waits until a process has no more files and threads than `before`, and not much more memory.
void expect_footprint(pid_t pid, const Footprint& before);
// That one call, over a connection of its own, is answered right.
void expect_right_answer(std::uint16_t service_b);

// The line at the end of each test that says what it did.
void report(const std::string& text);

}  // namespace tests::chaos
