#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/http/loop.hpp"

namespace common::http {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  bool silent = false;  ///< has been tried, and said nothing
};

struct Resolution {
  std::vector<SocketAddress> addresses;  ///< in the order in which to try them
  bool timed_out = false;                ///< nobody answered in time
  std::string error;                     ///< why there are none, otherwise
};

/// What needs no look-up: `host` is an IP address.
std::optional<Resolution> resolve_literal(const std::string& host, std::uint16_t port);

/// Looks `host` up, and gives up at `deadline`, or soon after a request to stop. With c-ares and
/// not getaddrinfo(3), which knows no deadline: a resolver that hangs would keep a thread. It waits
/// for IPv4 and IPv6 addresses: a name server that leaves one of the questions open gives neither.
/// `servers`: name servers as "address:port,...", instead of those of resolv.conf(5); for tests.
/// Thread-safe, uses no thread of its own.
Resolution resolve(const std::string& host, std::uint16_t port, Clock::time_point deadline,
                   const std::string& servers = {}, const std::stop_token& stop = {});

}  // namespace common::http
