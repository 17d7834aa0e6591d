#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iosfwd>
#include <list>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/posix.hpp"

// A Service A that misbehaves in one chosen way, and what Service B must make of it.

namespace tests {

// What follows the bytes of a mode.
enum class Then { kNext, kHold, kClose, kReset, kSoon, kLate, kDrip, kPour, kFlood };

struct Mode {
  std::string_view name;         // lower case, digits and '-'
  std::string_view description;  // what it does, for --help and the log
  std::string_view bytes;        // see faulty_upstream.cpp
  Then then = Then::kNext;
  std::string_view more{};
  std::string_view reason{};  // B's `reason`; empty where B must answer 200
  int status = 0;             // what B must answer: 200 or 503
  int upstream_status = 0;    // B's upstream_status= in the log, for reason bad_status
};

// Prints the name: GoogleTest shows parameters with it.
std::ostream& operator<<(std::ostream& out, const Mode& mode);

// The one list of modes, with `right` as the first; without `random`.
std::span<const Mode> modes();
// A correct Service A: /echo, keep-alive.
const Mode& right_mode();
// One of modes() drawn for each connection. Its expectation (status 0) is not known beforehand.
const Mode& random_mode();
// Any of them, `random` included. Throws std::invalid_argument when there is none of that name.
const Mode& mode_named(std::string_view name);

struct FaultyUpstreamOptions {
  std::string host = "127.0.0.1";  // an IPv4 address
  std::uint16_t port = 0;          // 0: a free one
  // For random_mode(): the same seed draws the same modes, in the order of accept.
  std::uint32_t seed = 1;
  // Called from the accepting thread with the connection's number, from 1, and its mode.
  std::function<void(std::size_t number, const Mode& mode)> on_connection{};
};

// Listens from construction to destruction; a thread per connection. Thread-safe.
class FaultyUpstream {
 public:
  // Throws std::system_error when it cannot listen.
  explicit FaultyUpstream(const Mode& mode, FaultyUpstreamOptions options = {});
  // Ends every connection at once, whatever it is doing.
  ~FaultyUpstream();
  FaultyUpstream(const FaultyUpstream&) = delete;
  FaultyUpstream& operator=(const FaultyUpstream&) = delete;

  std::uint16_t port() const { return listener_.port; }
  // "http://127.0.0.1:<port>"
  std::string url() const;

  // Holds for new connections, and for the next request on those that are open. What is already
  // being played goes on.
  void set_mode(const Mode& mode);

  // How many were accepted, ever; and how many are open now.
  std::size_t connections() const { return accepted_; }
  std::size_t open_connections() const { return open_; }
  // The heads of the requests received, in order; the last 10,000 of them.
  std::vector<std::string> requests() const;

 private:
  struct Session {
    UniqueFd fd;
    Mode mode;
    std::size_t mode_version;
    std::atomic<bool> done = false;
    std::thread thread;
  };

  void accept_until_stopped();
  void serve(Session& session);
  // REQUIRES: mutex_ is held.
  void choose_mode(Session& session);

  const FaultyUpstreamOptions options_;
  UniqueFd stop_fd_;  // readable from the moment all must end
  BoundSocket listener_;
  std::atomic<std::size_t> accepted_ = 0;
  std::atomic<std::size_t> open_ = 0;

  mutable std::mutex mutex_;
  Mode mode_;
  std::size_t mode_version_ = 1;
  std::mt19937 random_;
  std::deque<std::string> requests_;

  std::list<Session> sessions_;  // touched by the accepting thread only
  std::thread acceptor_;
};

}  // namespace tests
