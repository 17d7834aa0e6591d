#pragma once

#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/http/loop.hpp"

namespace common::http {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

struct Resolution {
  std::vector<SocketAddress> addresses;  ///< in the order in which to try them
  bool timed_out = false;                ///< the deadline passed before there was an answer
  std::string error;                     ///< why there are none, otherwise
};

/// What needs no look-up: `host` is an IP address.
std::optional<Resolution> resolve_literal(const std::string& host, std::uint16_t port);

/// Looks `host` up, and gives up at `deadline`. With c-ares and not getaddrinfo(3), which knows no
/// deadline: a resolver that hangs would keep a thread. `servers`: name servers as
/// "address:port,...", instead of those of resolv.conf(5); for tests. Thread-safe, uses no thread
/// of its own.
Resolution resolve(const std::string& host, std::uint16_t port, Clock::time_point deadline,
                   const std::string& servers = {});

/// Looks one name up for a loop, on a thread of its own that waits for the next time.
class Resolver {
 public:
  Resolver(std::string host, std::uint16_t port) : host_(std::move(host)), port_(port) {}
  ~Resolver();

  /// Has `done` called on the loop's thread, once, at the latest soon after `deadline`. REQUIRES:
  /// the last time is over. Throws std::system_error where there can be no thread.
  void start(Loop& loop, Clock::time_point deadline, std::function<void(const Resolution&)> done);

 private:
  void run();

  const std::string host_;
  const std::uint16_t port_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;  // empty: none
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace common::http
