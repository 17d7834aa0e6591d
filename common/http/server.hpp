#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/http/exchange.hpp"

namespace common::http {

struct RequestHead;
struct Refusal;

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  ///< 0: any free one
  /// Handlers that may run at the same time. One that blocks holds its thread, so this must be
  /// larger than the number of those that can block at once.
  std::size_t threads = 2;
  std::size_t max_connections = 10'000;  ///< one more is answered 503 and closed
  std::size_t max_refused = 64;  ///< of those at the same time; yet more wait in the backlog
  std::chrono::milliseconds head_timeout{5'000};    ///< from a head's first byte to its last: 408
  std::chrono::milliseconds idle_timeout{60'000};   ///< between requests: closed without a word
  std::chrono::milliseconds write_timeout{10'000};  ///< for a client to take its answers: cut off
  std::chrono::milliseconds linger_timeout{1'000};  ///< for a client to close after we have
};

/// Why this exists: cpp-httplib's own server gives each connection a thread, so a few idle clients
/// hold up everybody, and its parser accepts heads that two readers understand differently.
///
/// What it keeps of cpp-httplib: handlers registered with Get(), Request and Response, and
/// process_request(), which runs the handler and writes the answer. It is given one complete,
/// checked request at a time, over a stream in memory.
///
/// Which thread does what: `threads` workers wait on one epoll. A connection is armed there for one
/// event (EPOLLONESHOT); the worker that gets it owns the connection, reads, answers whatever is
/// complete, sends, and arms it again or closes it. An idle or dripping client is an entry in the
/// epoll and some 200 bytes. The acceptor thread accepts, and watches the deadlines: it never
/// touches an armed connection but shuts its socket down, which wakes a worker that then finds the
/// deadline passed.
///
/// Get and on_answer before start; everything else may be called from any thread.
class Server : private httplib::Server {
 public:
  using Handler =
      std::function<void(const httplib::Request&, httplib::Response&, Exchange& exchange)>;
  using Observer = std::function<void(const Exchange&)>;

  explicit Server(ServerOptions options);
  ~Server() override;

  /// Answers GET and HEAD of exactly `path`. With a `delay`, each answer is held back that long,
  /// without holding a thread.
  Server& Get(const std::string& path, Handler handler, std::chrono::milliseconds delay = {});
  Server& Get(const std::string& path, httplib::Server::Handler handler);

  /// The registered paths; the views live as long as the server.
  std::vector<std::string_view> routes() const;

  /// Called for each answer, refusals included, just before it is sent; from many threads at once.
  void on_answer(Observer observer) { observer_ = std::move(observer); }

  /// Binds and listens, without SO_REUSEPORT: a second server on the same address fails.
  /// Returns the port. Throws std::system_error.
  int bind();
  void start();

  /// From now on each answer carries Connection: close. Serving goes on.
  void begin_drain() { draining_ = true; }
  bool draining() const { return draining_; }

  /// No new connections, idle ones are closed at once, requests under way are answered.
  /// Returns whether all was finished in `time`; what was not is cut off. Where a handler still
  /// runs after that, its thread is left behind: after a `false`, end the process without
  /// destroying this.
  bool stop(std::chrono::milliseconds time);

  std::size_t open_connections() const { return open_connections_; }
  std::size_t active_requests() const { return active_requests_; }

 private:
  struct Connection;
  struct Current;
  static thread_local Current current;
  struct Route {
    Handler handler;
    std::chrono::milliseconds delay;
  };
  enum class Next { kRead, kWrite, kHold, kLinger, kClose };
  using Clock = std::chrono::steady_clock;

  void accept_loop();
  void accept_connections();
  void watch_deadlines();
  void work();
  void serve(Connection& connection);
  Next step(Connection& connection);
  bool answer_next(Connection& connection);
  bool answer(Connection& connection, const RequestHead& head);
  void refuse(Connection& connection, Exchange& exchange, int status, std::string_view error,
              std::string_view field = {});
  void refuse_head(Connection& connection, const Refusal& refusal);
  void finish(Exchange& exchange);
  void arm(Connection& connection, Next next);
  void close_connection(Connection& connection);
  void close_listener();

  const ServerOptions options_;
  std::map<std::string, Route, std::less<>> routes_;
  Observer observer_;

  int epoll_ = -1;
  int wake_acceptor_ = -1;  // eventfd
  int wake_workers_ = -1;   // eventfd, readable once the workers shall end
  int listener_ = -1;
  Clock::time_point accept_again_;
  std::vector<std::thread> workers_;
  std::thread acceptor_;

  std::mutex mutex_;  // guards connections_, and keeps their descriptors open while it is held
  std::list<Connection> connections_;
  std::condition_variable all_closed_;

  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> cut_off_{false};
  std::atomic<bool> ended_{false};
  std::atomic<std::size_t> open_connections_{0};     // refused ones included
  std::atomic<std::size_t> refused_connections_{0};  // those above the limit that are being told so
  std::atomic<std::size_t> active_requests_{0};
};

}  // namespace common::http
