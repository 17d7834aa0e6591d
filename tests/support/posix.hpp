#pragma once

// The few things that every user of sockets and pipes in the tests needs.

#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

namespace tests {

using Clock = std::chrono::steady_clock;

// Owns a file descriptor and closes it. Not thread-safe.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// Throws std::system_error with errno when `result` is negative.
inline int check(int result, const char* what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  return result;
}

// What is left until `deadline` as poll(2) wants it: rounded up, never negative.
inline int poll_timeout(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 3'600'000));
}

// Throws std::system_error where `host` is no IPv4 address.
sockaddr_in ipv4_address(const std::string& host, std::uint16_t port);

// A socket bound to an IPv4 address; `port` 0 picks a free one, which nobody else can bind while
// this lives. Throws std::system_error.
struct BoundSocket {
  UniqueFd fd;
  std::uint16_t port = 0;
};
BoundSocket bind_socket(int type, std::uint16_t port = 0, const std::string& host = "127.0.0.1");

// A port of 127.0.0.1 that is free, and below the range from which the kernel picks ports by
// itself: nobody takes it between a stop and a start again.
std::uint16_t lasting_port();

}  // namespace tests
