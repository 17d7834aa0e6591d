#pragma once

#include <optional>
#include <string>
#include <vector>

#include "support/process.hpp"

// Two hosts in one machine: network namespaces joined by a wire. Needs root and iproute2; nothing
// of it is seen from outside, and nothing from outside is changed.

namespace tests {

// Why it cannot be had here; nothing when it can.
std::optional<std::string> why_no_network();
// Whether this machine has an IPv6 address, that of its loopback included.
bool has_ipv6();
// Whether nft(8) is there and works, for faults that ip(8) cannot make.
bool can_filter_packets();

// "a" has 10.213.77.2, "b" has 10.213.77.1. There is no default route, and nothing else.
//
// The thread that constructs this lives on side "b" until the destructor: so do the sockets that it
// opens, and threads that it starts.
class Network {
 public:
  static constexpr const char* kAddressA = "10.213.77.2";
  static constexpr const char* kAddressB = "10.213.77.1";
  static constexpr const char* kSilentAddress = "10.213.77.99";  // takes all packets, says nothing

  // Throws std::runtime_error.
  Network();
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  // ip(8) on side "a" or "b": ip("b", {"link", "set", "wire", "down"}). Throws when it fails.
  void ip(const std::string& side, std::vector<std::string> arguments) const;
  // A program there. Throws when it fails.
  void run(const std::string& side, std::vector<std::string> argv) const;
  // Writes to a file below /proc/sys/net there.
  void set(const std::string& side, const std::string& name, const std::string& value) const;
  // What programs on `side` see as /etc/NAME. Holds for those that are started afterwards.
  void set_etc(const std::string& side, const std::string& name, const std::string& text) const;

  // From now on `side` sends what it has for `address` to nobody. true: it no longer does.
  void silence(const std::string& side, const std::string& address) const;
  void unsilence(const std::string& side, const std::string& address) const;

  // A service there: flags as Service takes them.
  Service start(const std::string& side, const std::string& binary,
                std::vector<std::string> flags) const;

 private:
  std::string name(const std::string& side) const { return prefix_ + side; }

  std::string prefix_;
  UniqueFd before_;  // the namespace that the thread came from
};

}  // namespace tests
