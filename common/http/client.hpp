#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "common/http/loop.hpp"
#include "common/http/url.hpp"

namespace common::http {

class Resolver;

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
  std::chrono::milliseconds budget{1'000};  ///< for one whole call, retry included
  std::size_t max_calls = 64;               ///< at the same time; one more is kOverloaded
  /// Behind a load balancer each connection is one replica's: few calls need few connections, and
  /// only new ones can spread them. One connect in two seconds costs nothing beside that.
  std::chrono::milliseconds max_age{2'000};
};

/// Calls one HTTP service from the loops of a Server, without holding a thread. A call has one
/// absolute deadline, from name look-up to the last byte of the body: whatever the peer does, it
/// ends in time. Redirects are not followed.
///
/// Connections are kept alive, each for one call at a time, last in first out, apart for each loop.
/// A reused one that the peer had closed before a byte of the answer came is replaced once, inside
/// the same deadline.
class Client {
 public:
  /// The body of a 200, or why there is none.
  using Answer = std::variant<std::string, CallFailure>;

  /// `loops`: their number. Must be destroyed when they have ended, but before they are destroyed.
  Client(BaseUrl url, ClientOptions options, std::size_t loops);
  ~Client();

  /// GET `target` (percent-encoded, with its query). `fields` are sent as they are: complete lines,
  /// each with its CRLF, and nothing that this sends itself. `done`, which must not throw, is
  /// called once, on the thread of `loop`, which must be the one that calls this; perhaps before
  /// this returns.
  void get(Loop& loop, const std::string& target, const std::string& fields,
           std::function<void(Answer)> done);

  /// Thread-safe.
  std::size_t calls_under_way() const { return calls_; }
  const BaseUrl& url() const { return url_; }

 private:
  struct Call;
  class Pool;
  class Connection;

  const BaseUrl url_;
  const ClientOptions options_;
  const std::string fields_;  // of each request
  std::atomic<std::size_t> calls_{0};
  std::vector<std::unique_ptr<Pool>> pools_;  // by the loops' index
  std::unique_ptr<Resolver> resolver_;        // destroyed before the pools, which it calls
};

}  // namespace common::http
