#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace common::http {

/// What getaddrinfo(3) has just returned, other than 0, as an error: its own, or that of errno.
std::error_code look_up_error(int status);

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  bool operator==(const SocketAddress& other) const {
    return size == other.size && std::memcmp(&storage, &other.storage, size) == 0;
  }
};

struct Resolution {
  std::vector<SocketAddress> addresses;  ///< in the order in which to try them
  std::string error;                     ///< why there are none, for a person
  bool overloaded = false;               ///< that is why: no thread or no file is left
  bool complete = true;                  ///< no look-up that may bring others is under way
  bool current = true;                   ///< nor one that may bring others in place of these
  std::uint64_t round = 0;               ///< for latest()
};

/// Finds the addresses of one name as the machine does, with getaddrinfo(3): hosts file, nsswitch,
/// search list, mDNS, and its order of addresses (RFC 6724: what has no route comes last).
///
/// getaddrinfo knows no deadline, and waits for IPv4 and IPv6 addresses: where a firewall drops the
/// question for one kind, that takes many seconds. After 25 ms, both kinds are asked for apart as
/// well. As soon as one is there, the other has 25 ms left (RFC 8305, section 3); IPv4 is first.
///
/// The addresses that were found last stay in use while a look-up fails, or takes over 50 ms; so do
/// those of one family while only the other's are found, unless that family is known to have none.
/// What it finds in the end is used from then on, but for what a later look-up has found already.
///
/// A look-up can't be cancelled, so it has a thread that nobody waits for. All callers share these:
/// two while names are looked up, at most four when no name server answers. One that takes over a
/// minute is given up, and another one begun: getaddrinfo waits for ever where a name server goes
/// away in the middle of an answer over TCP. Then there may be 64 threads. Thread-safe.
class Resolver {
 public:
  using Done = std::function<void(const Resolution&)>;

  /// `host`: a name, or an IP address, perhaps with a zone (fe80::1%eth0).
  Resolver(std::string host, std::uint16_t port,
           std::chrono::milliseconds give_up_after = std::chrono::minutes(1));
  /// Ends no look-up and waits for none. Afterwards, no `done` is called any more.
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  /// What needs no look-up: the host is an IP address.
  const std::optional<Resolution>& literal() const { return literal_; }

  /// Calls `done` once, on any thread, perhaps before this returns. As long as no address has ever
  /// been found, that may be late or never: the caller needs a deadline of its own. `done` must not
  /// throw, nor destroy this. Want of threads or files is a failed look-up, and no exception.
  void resolve(Done done);

  /// What has been found by now. It is complete and current when the look-ups have ended that were
  /// under way at `earlier`, which resolve() gave. Begins none, and does not wait.
  Resolution latest(const Resolution& earlier) const;

 private:
  struct Shared;

  std::optional<Resolution> literal_;
  std::shared_ptr<Shared> shared_;  // with the threads
};

}  // namespace common::http
