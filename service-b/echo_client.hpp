#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/http/client.hpp"
#include "common/http/exchange.hpp"
#include "common/options.hpp"

namespace service_b {

struct Options : common::Options {
  Options() { port = 8081; }
  std::string service_a_url = "http://127.0.0.1:8080";
  common::Duration timeout{1'000};  ///< the budget of a whole call to Service A
  int max_upstream_calls = 64;      ///< more at the same time are answered `overloaded`
};

/// Why Service A gave no answer that Service B can pass on.
struct Unavailable {
  std::string_view reason;  ///< the word that users, the log and the metrics see
  std::string sentence;     ///< for a person
  int upstream_status = 0;  ///< with bad_status
};

/// Calls Service A's /echo, and decides which of its answers are right and what a failure is
/// called.
class EchoClient {
 public:
  /// `loops`: their number, as for common::http::Client.
  EchoClient(const Options& options, std::size_t loops);

  /// All words that Unavailable::reason can be.
  static std::span<const std::string_view> reasons();

  /// Whether Service A would accept the request line for this msg.
  static bool fits(const std::string& msg);

  /// Has Service A echo `msg`. Returns nothing where it did, or why it did not, at the latest after
  /// Options::timeout, whatever Service A does. Waits: call it on a fiber. Sends on the request id
  /// and the trace of `exchange`. REQUIRES: msg is valid UTF-8 and fits().
  std::optional<Unavailable> echo(const std::string& msg, const common::http::Exchange& exchange);

  /// Thread-safe.
  std::size_t calls_under_way() const { return client_.calls_under_way(); }
  const common::http::BaseUrl& url() const { return client_.url(); }

 private:
  Unavailable describe(const common::http::CallFailure& failure) const;

  const std::string timeout_;
  common::http::Client client_;
};

}  // namespace service_b
