#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace common::http {

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
  bool no_thread = false;                ///< that is why: none could be started
  bool complete = true;                  ///< no look-up that may bring others is under way
};

/// Finds the addresses of one name as the machine does, with getaddrinfo(3): hosts file, nsswitch,
/// search list, mDNS, and its order of addresses (RFC 6724: what has no route comes last).
///
/// getaddrinfo knows no deadline, and waits for IPv4 and IPv6 addresses: where a firewall drops the
/// question for one kind, that takes many seconds. After 25 ms, both kinds are asked for apart as
/// well. As soon as one is there, the other has 25 ms left (RFC 8305, section 3); IPv4 is first.
///
/// The addresses that were found last stay in use while a look-up fails, or takes over 50 ms; so do
/// those of one family while only the other's are found. What it finds in the end is used from then
/// on.
///
/// A look-up can't be cancelled, so it has a thread that nobody waits for. All callers share these:
/// two while names are looked up, at most four when no name server answers. Thread-safe.
class Resolver {
 public:
  using Done = std::function<void(const Resolution&)>;

  /// `host`: a name, or an IP address, perhaps with a zone (fe80::1%eth0).
  Resolver(std::string host, std::uint16_t port);
  /// Ends no look-up and waits for none. Afterwards, no `done` is called any more.
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  /// What needs no look-up: the host is an IP address.
  const std::optional<Resolution>& literal() const { return literal_; }

  /// Calls `done` once, on any thread, perhaps before this returns. As long as no address has ever
  /// been found, that may be late or never: the caller needs a deadline of its own. `done` must not
  /// throw, nor destroy this. Want of threads is a failed look-up, and no exception.
  void resolve(Done done);

 private:
  struct Shared;

  std::optional<Resolution> literal_;
  std::shared_ptr<Shared> shared_;  // with the threads
};

}  // namespace common::http
