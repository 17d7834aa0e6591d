#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/http/exchange.hpp"
#include "common/http/loop.hpp"
#include "common/http/url.hpp"

namespace common::http {

class Connection;

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  ///< 0: any free one
  std::size_t threads = 2;
  std::size_t max_connections = 10'000;  ///< one more is answered 503 and closed
  std::size_t max_surplus = 64;  ///< of those at the same time; yet more wait in the backlog
  std::chrono::milliseconds head_timeout{5'000};    ///< from a head's first byte to its last: 408
  std::chrono::milliseconds idle_timeout{60'000};   ///< between requests: closed without a word
  std::chrono::milliseconds write_timeout{10'000};  ///< for a client to take its answers: cut off
  std::chrono::milliseconds linger_timeout{1'000};  ///< for a client to close after we have
};

/// A request whose answer is on its way, as a handler sees it.
struct PendingExchange : Exchange {
  httplib::Request request;    ///< method, path and params; of the headers only what is above
  httplib::Response response;  ///< status, headers and body are sent
  Connection& connection;

  explicit PendingExchange(Connection& from) : connection(from) {}

  Loop& loop() const;

  /// Lets `fill` make the response, and sends it; what it throws becomes a 500 and an entry in the
  /// log. Must be called once, in the handler or later, on the thread of loop(). This is gone then.
  template <typename Fill>
  void answer(Fill&& fill) {
    try {
      fill();
    } catch (const std::exception& error) {
      fail(error.what());
    } catch (...) {
      fail("something that is no std::exception");
    }
    send();
  }

 private:
  friend class Connection;
  void fail(const char* what) noexcept;
  void send();
};

/// Makes `response` an error as all are: {"error":"<sentence>"}. REQUIRES: `sentence` needs no
/// escapes in JSON.
void answer_error(httplib::Response& response, int status, std::string_view sentence);

/// Why this exists: cpp-httplib's own server gives each connection a thread, so a few idle clients
/// hold up everybody, and its parser accepts heads that two readers understand differently.
///
/// What it keeps of cpp-httplib is what those see who write handlers: Get(), Request and Response.
/// Its process_request() is not used: to write a request anew for it to parse, and to take its
/// answer apart, were two thirds of the instructions of an answer.
///
/// Which thread does what: each of `threads` has a loop, and a connection stays in one of them for
/// life, so it needs no lock. The first also accepts, and deals the connections out in turn.
/// Handlers run in the loops: one that has to wait must not block, but answer later. An idle or
/// dripping client is an entry in an epoll, some 400 bytes, and what there is of its head.
///
/// Get and on_answer before start; everything else may be called from any thread, by one at a time.
class Server {
 public:
  using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;
  using AsyncHandler = std::function<void(PendingExchange&)>;
  using Observer = std::function<void(const Exchange&)>;

  /// Throws std::system_error.
  explicit Server(ServerOptions options);
  ~Server();

  /// Answers GET and HEAD of exactly `path`: when the handler returns, or when it calls answer().
  Server& Get(const std::string& path, Handler handler);
  Server& Get(const std::string& path, AsyncHandler handler);

  /// By the registered path.
  const std::map<std::string, AsyncHandler, std::less<>>& routes() const { return routes_; }

  /// Called for each answer, refusals included, just before it is sent; from all threads.
  void on_answer(Observer observer) { observer_ = std::move(observer); }

  std::size_t threads() const { return loops_.size(); }

  /// Binds and listens, without SO_REUSEPORT: a second server on the same address fails. Or takes
  /// over `inherited`, a socket that listens already. Returns the address, in numbers. Throws
  /// std::system_error.
  BaseUrl bind(int inherited = -1);
  /// Throws std::system_error.
  void start();

  /// From now on each answer carries Connection: close. Serving goes on.
  void begin_drain() { draining_ = true; }
  bool draining() const { return draining_; }

  /// No new connections, idle ones are closed at once, requests under way are answered. Returns
  /// whether all was finished in `time`; if not, end the process without destroying this.
  bool stop(std::chrono::milliseconds time);

  /// Whether all loops have turned since the last call, which has asked them to. For a watchdog:
  /// however many clients there are, only a server that hangs says no.
  bool turned();

  std::size_t open_connections() const { return open_connections_; }
  std::size_t active_requests() const { return active_requests_; }

 private:
  friend class Connection;
  class Listener;

  bool full();
  void add_connection(int fd, bool surplus);
  void connection_closed(bool surplus);
  void listener_closed();
  void end_threads();

  const ServerOptions options_;
  std::map<std::string, AsyncHandler, std::less<>> routes_;
  Observer observer_;

  std::vector<std::unique_ptr<Loop>> loops_;
  std::vector<std::thread> threads_;
  int bound_ = -1;                // between bind and start
  Listener* listener_ = nullptr;  // while it accepts
  std::size_t next_loop_ = 0;     // the first loop's

  std::shared_ptr<std::atomic<std::size_t>> turned_;  // how many loops, since the last turned()
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<std::size_t> open_connections_{0};     // surplus ones included
  std::atomic<std::size_t> surplus_connections_{0};  // above the limit, and being told so
  std::atomic<std::size_t> active_requests_{0};
  std::mutex mutex_;  // with all_closed_: for those who wait for the last connection
  std::condition_variable all_closed_;
};

}  // namespace common::http
