#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/posix.hpp"

namespace tests {

struct ProcessOptions {
  // "NAME=value", added to the inherited environment, of which no variable that configures the
  // services is left.
  std::vector<std::string> environment{};
  // RLIMIT_NOFILE of the child, soft and hard.
  std::optional<std::uint64_t> max_open_files{};
  // An open file of ours that the child has as its file 3.
  std::optional<int> file_3{};
};

// A child process that lives no longer than this object, nor than the test program.
//
// stdout and stderr are pipes, read by a thread of this object from start to end, so that the child
// never blocks on them. stdin is /dev/null; no other file but file_3 is inherited. Signals start
// with their default action, none blocked.
//
// Thread-safe, except for construction and destruction.
class Process {
 public:
  // argv[0] is looked up in PATH when it has no slash. Throws std::system_error when it cannot be
  // run.
  explicit Process(std::vector<std::string> argv, const ProcessOptions& options = {});
  // Continues, kills and reaps the child.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool running() const;

  // False when the child has ended. Never hits another process: the pid is ours until it is reaped,
  // and both happen under one lock.
  bool signal(int number);
  // SIGSTOP, and waits until all of it stands still. SIGCONT lets it go on.
  void hang();
  // SIGKILL, which a stopped process obeys too, and waits for the end.
  void kill();

  // The exit code, or 128 + the signal's number; nullopt when it runs on after `timeout`. Once
  // there is a status, all that the child wrote is in out() and err().
  [[nodiscard]] std::optional<int> wait(std::chrono::milliseconds timeout);

  // What was written so far.
  std::string out() const;
  std::string err() const;
  // The complete lines of stdout so far, without their line ends.
  std::vector<std::string> lines() const;

  // Waits until `predicate` holds for all of stdout. False after `timeout`, or at once when the
  // child ended and it still does not. `predicate` runs under the object's lock: it must not call
  // the object.
  [[nodiscard]] bool wait_for(const std::function<bool(const std::string& out)>& predicate,
                              std::chrono::milliseconds timeout);

 private:
  void read_until_end();

  pid_t pid_ = 0;
  UniqueFd pid_fd_;
  UniqueFd out_fd_;
  UniqueFd err_fd_;
  UniqueFd stop_fd_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string out_;
  std::string err_;
  std::optional<int> status_;

  std::thread reader_;
};

// From /proc. They throw std::runtime_error when the process is gone.
long rss_kib(pid_t pid);
long open_files(pid_t pid);
long thread_count(pid_t pid);

// One of the project's executables, ready to be called. Adds --port=0 unless the flags or the
// environment name a port, and waits for the start line on stdout, so --log-level must let that
// through.
class Service {
 public:
  // Throws std::runtime_error, with what the program wrote, when it ends or says nothing within 20
  // s (a binary under a sanitizer on a busy machine is slow to start).
  explicit Service(const std::string& binary, std::vector<std::string> flags = {},
                   const ProcessOptions& options = {});

  std::uint16_t port() const { return port_; }
  // "http://127.0.0.1:<port>"
  std::string url() const;
  Process& process() { return process_; }

  // SIGTERM, then up to 20 s for the end. The exit status as Process::wait says it.
  [[nodiscard]] std::optional<int> stop();

 private:
  Process process_;
  std::uint16_t port_ = 0;
};

}  // namespace tests
