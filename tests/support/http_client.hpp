#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/posix.hpp"

// An HTTP client on a bare socket: simple enough to be trusted, sends exactly the bytes it is
// given, and shares no code with what it tests.

namespace tests {

using Headers = std::vector<std::pair<std::string, std::string>>;

// An answer, or why there is none.
struct Response {
  int status = 0;     // 0: there is none
  Headers headers;    // in order, names in lower case, values without the white space around them
  std::string body;   // chunks put together
  std::string head;   // as received, up to and with the empty line
  std::string error;  // empty where there is an answer

  explicit operator bool() const { return status != 0; }

  // The first of that name, in whatever case.
  std::optional<std::string> header(std::string_view name) const;
  // The body; a discarded value (is_discarded(), equal to nothing) when it is not JSON. Who calls
  // it includes <nlohmann/json.hpp>, which costs seconds to compile.
  nlohmann::json json() const;
  // What the JSON object in the body has as `key`: a string as it is, anything else as JSON.
  // "(none)" where there is none, or the body is no object.
  std::string field(const std::string& key) const;
};

struct ConnectionOptions {
  std::string host = "127.0.0.1";  // an IPv4 address
  int receive_buffer = 0;          // SO_RCVBUF in bytes, set before connecting; 0: the system's
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(5);
};

// One TCP connection. What the peer does is no exception: connected() and error() tell. Not
// thread-safe.
class Connection {
 public:
  explicit Connection(std::uint16_t port, const ConnectionOptions& options = {});

  bool connected() const { return static_cast<bool>(fd_); }
  // What went wrong last; empty when nothing did.
  const std::string& error() const { return error_; }
  int fd() const { return fd_.get(); }

  // All of `bytes`; false when the peer is gone or takes no more for `timeout`.
  bool send(std::string_view bytes, std::chrono::milliseconds timeout = std::chrono::seconds(5));

  // The next answer, an interim one (1xx) included. None when it is not complete within `timeout`,
  // cut off or not HTTP: error() tells which, too. Bytes after the answer stay for the next call,
  // and so do those of an incomplete one. `head_request`: the answer has no body, whatever its
  // Content-Length.
  Response read_response(std::chrono::milliseconds timeout = std::chrono::seconds(5),
                         bool head_request = false);

  // Whether the peer closes or resets within `timeout`. Bytes before that are kept.
  [[nodiscard]] bool closed_by_peer(std::chrono::milliseconds timeout = std::chrono::seconds(5));

  // Received, and not yet part of an answer.
  const std::string& unread() const { return buffer_; }

  void shutdown_write();
  // Closes with a reset instead of a FIN.
  void reset();

 private:
  enum class Fill { kData, kClosed, kReset, kTimeout };

  Fill fill(Clock::time_point deadline);

  UniqueFd fd_;
  std::string buffer_;
  std::string error_;
};

// One request over a connection of its own. `timeout` bounds the whole exchange.
Response get(std::uint16_t port, std::string_view target, const Headers& extra_headers = {},
             std::chrono::milliseconds timeout = std::chrono::seconds(5),
             std::string_view method = "GET");

// A request's head. `fields` are complete lines.
std::string request_text(std::string_view target, std::string_view method = "GET",
                         std::string_view fields = "");

// Everything but RFC 3986's unreserved characters becomes %XX.
std::string percent_encode(std::string_view text);

}  // namespace tests
