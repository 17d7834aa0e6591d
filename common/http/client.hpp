#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/http/cpp_httplib.hpp"
#include "common/http/loop.hpp"
#include "common/http/resolver.hpp"
#include "common/http/url.hpp"

namespace common::http {

/// Why a call got no answer that can be used.
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
  /// Behind a load balancer a connection leads to one replica, and only new connections spread the
  /// calls. One connect in two seconds costs next to nothing.
  std::chrono::milliseconds max_age{2'000};
};

/// Calls one HTTP service from fibers. A call has one absolute deadline, from the look-up of the
/// name to the last byte of the body: whatever the peer does, the call ends in time. The request is
/// written and the answer read by httplib::ClientImpl::process_request(), over a stream that knows
/// the deadline, after parse_response_head() has accepted the head. Redirects are not followed.
///
/// Connections are kept alive, each for one call at a time, the newest first, apart for each loop.
/// A kept one that the peer has closed before a byte of the answer came is replaced once, inside
/// the same deadline.
class Client {
 public:
  /// The body of a 200, or why there is none.
  using Answer = std::variant<std::string, CallFailure>;

  /// `loops`: their number. Destroy this after the loops have stopped and before the Loop objects
  /// are destroyed.
  Client(BaseUrl url, ClientOptions options, std::size_t loops);
  ~Client();

  /// GET `target` (percent-encoded, with its query). Waits: call it on a fiber. `headers`: besides
  /// Host and Accept. Throws nothing but std::bad_alloc.
  Answer get(const std::string& target, httplib::Headers headers);

  /// Thread-safe.
  std::size_t calls_under_way() const { return calls_; }
  const BaseUrl& url() const { return url_; }

 private:
  class Call;
  class UpstreamConnection;
  struct Attempts;
  using Pool = std::vector<UpstreamConnection*>;  // idle, newest last

  Answer get_in_time(httplib::Request& request, Clock::time_point deadline);
  static UpstreamConnection* take_idle(Pool& pool);
  std::variant<UpstreamConnection*, CallFailure> connect(Pool& pool, Clock::time_point deadline);
  std::optional<Resolution> resolve(Clock::time_point deadline);

  const BaseUrl url_;
  const ClientOptions options_;
  std::atomic<std::size_t> calls_{0};
  std::vector<Pool> pools_;  // by the loops' index
  ClientEngine engine_;
  Resolver resolver_;
};

}  // namespace common::http
