#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/http/cpp_httplib.hpp"
#include "common/http/exchange.hpp"
#include "common/http/loop.hpp"
#include "common/http/url.hpp"

namespace common::http {

struct ServerOptions {
  std::string host = "127.0.0.1";  ///< name or address; "::" takes IPv4 as well
  int port = 0;                    ///< 0: any free one
  std::optional<int> admin_port;   ///< a second port of the same host
  std::size_t threads = 2;
  std::size_t max_connections = 10'000;    ///< of `port`; one more has a request answered 503
  std::size_t max_admin_connections = 16;  ///< the same for `admin_port`
  std::size_t max_over_limit = 64;         ///< answered so at a time; more wait in the backlog
  std::chrono::milliseconds head_timeout{5'000};    ///< from a head's first byte to its last: 408
  std::chrono::milliseconds idle_timeout{75'000};   ///< between requests: closed without a word
  std::chrono::milliseconds write_timeout{10'000};  ///< for a client to take its answers: cut off
  std::chrono::milliseconds linger_timeout{1'000};  ///< for a client to close after we have
};

/// Where a route is served.
enum class Ports { kMain, kAdmin, kBoth };

/// An address that cannot be listened on: code(), and what() begins with the address.
using BindError = std::system_error;

/// A cpp-httplib server whose sockets are ours. cpp-httplib's own gives each connection a thread,
/// so that a few idle clients hold up everybody, and its parser accepts heads that two readers
/// understand differently. Here
/// - sockets, request framing, deadlines, limits and the drain are ours: an idle or dripping client
///   is an entry in an epoll, some 320 bytes;
/// - a complete and valid head starts a fiber, which runs httplib::Server::process_request():
///   routing, the call of the handler and the bytes of the answer are cpp-httplib's.
///
/// Handlers are those of cpp-httplib. They see method, path, target, version, params, the peer's
/// address, and all header fields but Range, Accept-Encoding and Expect, which have no effect here;
/// params hold what the query decodes to as WHATWG URL says. They run on a fiber (fiber.hpp: what
/// may not be done on one), and may wait. What they throw is a 500, and goes to the log only. So is
/// a content provider, which is not supported: an answer is made whole.
///
/// A connection stays on one of `threads` loops for life, so it needs no lock. The first loop also
/// accepts, and deals the connections out in turn.
///
/// Get and on_answer before start; all else may be called from any thread, by one at a time.
class Server : private ServerEngine {
 public:
  using ServerEngine::Handler;
  using ExchangeHandler =
      std::function<void(const httplib::Request&, httplib::Response&, Exchange&)>;
  using Observer = std::function<void(const Exchange&)>;
  struct Route {
    ExchangeHandler handler;
    Ports ports;
  };

  /// Throws std::system_error.
  explicit Server(ServerOptions options);
  ~Server() override;

  /// Answers GET and HEAD of exactly `path`.
  Server& Get(const std::string& path, ExchangeHandler handler, Ports ports = Ports::kMain);
  Server& Get(const std::string& path, Handler handler, Ports ports = Ports::kMain);

  /// By path.
  const std::map<std::string, Route, std::less<>>& routes() const { return routes_; }

  /// Called for each answer, refusals included, just before it is sent; from all threads.
  void on_answer(Observer observer) { observer_ = std::move(observer); }

  std::size_t threads() const { return loops_.size(); }

  struct Addresses {  // in numbers
    std::vector<BaseUrl> main;
    std::vector<BaseUrl> admin;
  };
  /// Listens on all addresses of the host or on none, but for those of a family that the machine
  /// does not have. Without SO_REUSEPORT: a second server on one of them fails. `inherited`: a
  /// socket that listens already, instead of host and port. Throws BindError.
  Addresses bind(int inherited = -1);
  /// Throws std::system_error.
  void start();

  /// From now on each answer carries Connection: close. Serving goes on.
  void begin_drain();
  bool draining() const { return phase_ != Phase::kServing; }

  /// Closes the listeners; then answers carry Connection: close, idle connections are closed, and
  /// requests under way are answered. Returns whether all was finished in `time`; if not, end the
  /// process without destroying this.
  bool stop(std::chrono::milliseconds time);

  /// Whether all loops have run since the last call. For a watchdog.
  bool all_loops_responsive();

  std::size_t open_connections() const { return open_connections_; }
  std::size_t active_requests() const { return active_requests_; }

 private:
  friend class ServerConnection;
  class Listener;
  enum class Phase { kServing, kDraining, kStopping };

  /// What one port has.
  struct Port {
    const Ports id;
    const std::size_t max_connections;
    std::atomic<std::size_t> served{0};  // connections
  };

  void route(const httplib::Request& request, httplib::Response& response);
  void add_connection(int fd, Port& port, bool over_limit, BaseUrl peer);
  void connection_closed(Port& port, bool over_limit);
  void end_threads();

  const ServerOptions options_;
  std::map<std::string, Route, std::less<>> routes_;
  Observer observer_;
  Port main_;
  Port admin_;

  std::vector<std::unique_ptr<Loop>> loops_;
  std::vector<std::thread> threads_;
  std::vector<std::pair<int, Port*>> bound_;  // between bind and start
  std::vector<Listener*> listeners_;          // the first loop's
  std::size_t next_loop_ = 0;                 // the first loop's

  std::shared_ptr<std::atomic<std::size_t>> responsive_loops_;
  std::atomic<Phase> phase_{Phase::kServing};
  std::atomic<std::size_t> over_limit_{0};  // connections that are told so, of both ports
  std::atomic<std::size_t> open_connections_{0};
  std::atomic<std::size_t> active_requests_{0};
  std::mutex mutex_;  // guards listening_, and with all_closed_ the wait for the last connection
  bool listening_ = false;
  std::condition_variable all_closed_;
};

/// Makes `response` {"error":"<sentence>"}. REQUIRES: `sentence` needs no escapes in JSON.
void answer_error(httplib::Response& response, int status, std::string_view sentence);

}  // namespace common::http
