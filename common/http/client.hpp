#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "common/http/url.hpp"

namespace common::http {

/// Why a call got no answer that can be used. The words that users see are made of these elsewhere.
enum class CallError {
  kConnectionRefused,
  kUnreachable,
  kDnsFailure,
  kTimeout,
  kConnectionClosed,
  kBadStatus,
  kBadResponse,
  kOverloaded,
};

struct CallFailure {
  CallError error = CallError::kBadResponse;
  std::string detail;       ///< for a person, may be empty; holds nothing that the peer has sent
  int upstream_status = 0;  ///< with kBadStatus
};

struct ClientOptions {
  std::chrono::milliseconds budget{1'000};         ///< for one whole call, retry included
  std::size_t max_calls = 64;                      ///< at the same time; one more is kOverloaded
  std::chrono::milliseconds idle_timeout{30'000};  ///< less than the peer's own
  std::chrono::milliseconds max_age{20'000};       ///< so that new replicas get their share
  std::string user_agent = "cpp-httplib";
};

/// Calls one HTTP service with cpp-httplib's client on sockets of our own. A call has one absolute
/// deadline, from name look-up to the last byte of the body: whatever the peer does, it ends in
/// time. What the peer sends reaches cpp-httplib only when it is a complete and well-formed answer
/// (response_message.hpp). Redirects are not followed.
///
/// Connections are kept alive, each for one call at a time, last in first out. A reused one that
/// the peer had closed before a byte of the answer came is replaced once, inside the same deadline.
/// Thread-safe; a call blocks its thread.
class Client {
 public:
  Client(BaseUrl url, ClientOptions options);
  ~Client();

  /// The body of a 200 to GET `target` (percent-encoded, with its query), or why there is none.
  /// `headers` are sent as they are: they must be valid.
  std::variant<std::string, CallFailure> get(const std::string& target,
                                             const httplib::Headers& headers);

  /// Closes connections that have been idle for too long. To be called every second or so.
  void close_idle();

  std::size_t calls_under_way() const { return calls_; }
  const BaseUrl& url() const { return url_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Connection;
  using Attempt = std::variant<std::string, CallFailure>;

  std::unique_ptr<Connection> take_idle();
  void keep(std::unique_ptr<Connection> connection);
  std::variant<std::unique_ptr<Connection>, CallFailure> connect(Clock::time_point deadline) const;

  const BaseUrl url_;
  const ClientOptions options_;
  std::atomic<std::size_t> calls_{0};
  std::mutex mutex_;                             // guards idle_
  std::list<std::unique_ptr<Connection>> idle_;  // newest first
};

}  // namespace common::http
