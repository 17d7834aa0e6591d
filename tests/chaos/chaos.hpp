#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "support/process.hpp"
#include "support/services.hpp"

// What all chaos tests and the soak share: the seed, what they allow for, a service that is killed
// and started again at the same address.

namespace tests::chaos {

// Nothing that works takes this long, however busy the machine is.
inline constexpr std::chrono::milliseconds kPatience{60'000};

// Added to limits: hundreds of callers share the processors with the services that they judge, and
// a sanitizer makes those slow. What else the machine does is measured, see Control; promises to
// the millisecond are judged without load, see integration/in_time_test.cpp.
inline const std::chrono::milliseconds kSlack{kSanitized ? 1'500 : 100};

// Of the environment variable CHAOS_SEED, otherwise a new one in each run. Printed when it is first
// asked for, so that a run can be repeated.
std::uint32_t chaos_seed();

// A whole number from `low` to `high`.
int draw(std::mt19937& random, int low, int high);
// Sleeps that long: faults come at moments that no condition foretells.
void pause(std::mt19937& random, std::chrono::milliseconds low, std::chrono::milliseconds high);

// A port on 127.0.0.1 that can be bound again and again: outside of the range from which the kernel
// takes the local ends of connections, where it might be in use just when it is needed.
std::uint16_t fixed_port(std::mt19937& random);

// Keeps what a sanitizer sets aside small: memory is compared.
ProcessOptions service_options();

struct Footprint {
  long files = 0;
  long threads = 0;
  long rss_kib = 0;
};
Footprint footprint(pid_t pid);
std::string to_text(const Footprint& footprint);

// Memory that a process may keep after work that it has not done before.
inline const long kKeptKib = (kSanitized ? 192 : 12) * 1024;

// Waits until there are no more files and threads than `before`, and not much more memory. Returns
// what differs in the end; empty when nothing does.
std::string difference(pid_t pid, const Footprint& before);

// A service at an address that stays the same from start to start.
class Restartable {
 public:
  // Does not start it.
  Restartable(std::string binary, std::uint16_t port, std::vector<std::string> flags = {});

  // REQUIRES: it is not running. Throws as Service does.
  void start();
  // REQUIRES for all of these: it is running.
  void kill();
  // SIGTERM. The exit status.
  std::optional<int> stop();
  void hang() { service_->process().signal(SIGSTOP); }
  void resume() { service_->process().signal(SIGCONT); }

  bool running() const { return service_ != nullptr; }
  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  Process& process() { return service_->process(); }
  pid_t pid() const { return service_->process().pid(); }
  // All that was logged since the first start, of processes that have ended.
  const std::string& log() const { return log_; }
  // The same for stderr.
  const std::string& errors() const { return errors_; }

 private:
  void keep_output();

  const std::string binary_;
  const std::uint16_t port_;
  const std::vector<std::string> flags_;
  std::unique_ptr<Service> service_;
  std::string log_;
  std::string errors_;
};

// Those of `ids` that have a line in `log`.
std::vector<std::string> logged(const std::string& log, const std::vector<std::string>& ids);

}  // namespace tests::chaos
