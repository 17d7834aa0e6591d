#include "common/http/server.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <stdexcept>
#include <system_error>

#include "common/http/request_head.hpp"
#include "common/http/stream.hpp"
#include "common/http/url.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

constexpr int kBacklog = 4096;                // capped by net.core.somaxconn
constexpr std::size_t kReadSize = 16'384;     // bytes taken from a socket at once
constexpr std::size_t kMaxUnsent = 65'536;    // no further request is answered above that
constexpr std::size_t kMaxLinger = 1u << 24;  // bytes thrown away after a refusal
constexpr int kMaxRoundsPerTurn = 4;          // reads before another connection has its turn
constexpr auto kFreshGrace =
    200ms;  // for the first request of a connection accepted before the stop
constexpr auto kAcceptPause = 50ms;  // after running out of descriptors or memory
constexpr auto kFullPause = 5ms;  // while as many as may be are being told that there is no place
constexpr auto kTick = 100ms;     // how late a deadline may be noticed
constexpr auto kTickWithDelay = 2ms;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 414: return "URI Too Long";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
  }
  return "Internal Server Error";
}

// RFC 9110, section 6.6.1; made once a second.
const std::string& http_date() {
  thread_local std::time_t made_at = 0;
  thread_local std::string text;
  const auto now = std::time(nullptr);
  if (now != made_at) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    std::array<char, 40> buffer{};
    text.assign(buffer.data(),
                std::strftime(buffer.data(), buffer.size(), "%a, %d %b %Y %H:%M:%S GMT", &utc));
    made_at = now;
  }
  return text;
}

/// Hands one request to cpp-httplib and takes its answer.
class RequestStream final : public MemoryStream {
 public:
  RequestStream(std::string_view request, std::string& answer) : rest_(request), answer_(answer) {}

  ssize_t read(char* data, size_t size) override {
    const auto count = rest_.copy(data, size);
    rest_.remove_prefix(count);
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* data, size_t size) override {
    answer_.append(data, size);
    return static_cast<ssize_t>(size);
  }
  using Stream::write;

 private:
  std::string_view rest_;
  std::string& answer_;
};

/// Counts a request while it is under way.
class Active {
 public:
  explicit Active(std::atomic<std::size_t>& count) : count_(count) { ++count_; }
  ~Active() { --count_; }
  Active(const Active&) = delete;
  Active& operator=(const Active&) = delete;

 private:
  std::atomic<std::size_t>& count_;
};

void add_query(httplib::Request& request, std::string_view query) {
  while (!query.empty()) {
    const auto pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    const auto equals = std::min(pair.find('='), pair.size());
    auto key = percent_decode(pair.substr(0, equals), true);
    // The first one wins.
    if (pair.empty() || request.params.find(key) != request.params.end()) continue;
    request.params.emplace(std::move(key),
                           percent_decode(pair.substr(std::min(equals + 1, pair.size())), true));
  }
}

}  // namespace

struct Server::Connection {
  explicit Connection(int descriptor) : fd(descriptor) {}

  // The value of the answer's Connection header, or empty for none.
  std::string_view header() const { return closing ? "close" : http_1_0 ? "keep-alive" : ""; }

  // What the acceptor may look at while a worker owns the connection.
  enum class Phase { kFresh, kIdle, kHead, kBusy, kWriting, kHeld, kLingering };
  std::atomic<Phase> phase{Phase::kFresh};
  std::atomic<Clock::time_point> deadline{Clock::time_point::max()};
  const int fd;

  std::list<Connection>::iterator self;
  std::string in;        // received, not yet answered
  std::string out;       // answered, not yet sent
  std::size_t sent = 0;  // of out
  std::size_t thrown_away = 0;
  Clock::time_point head_start{};
  Clock::time_point write_start{};
  std::unique_ptr<Active> held;  // the first request of `in` waits for `deadline`
  bool due = false;              // and has waited
  bool refused = false;          // above the limit: it is only told so
  bool http_1_0 = false;         // the request that is being answered
  bool in_epoll = false;         // armed at least once
  bool answered = false;         // at least one request
  bool closing = false;          // after what is in `out`
  bool shut = false;             // our side is closed
  bool eof = false;              // theirs is, or the acceptor has closed it for them
};

/// What the hooks of httplib::Server have to know of the request in process_request() on this
/// thread.
struct Server::Current {
  Exchange* exchange;
  const Handler* handler;
  Connection* connection;
};
thread_local Server::Current Server::current{};

Server::Server(ServerOptions options) : options_(std::move(options)) {
  set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    (*current.handler)(request, response, *current.exchange);
    return HandlerResponse::Handled;
  });
  set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& thrown) {
        current.exchange->outcome = Exchange::Outcome::kFailed;
        try {
          std::rethrow_exception(thrown);
        } catch (const std::exception& error) {
          current.exchange->note("error", error.what());
        } catch (...) {
          current.exchange->note("error", "something that is no std::exception");
        }
        response.headers.clear();
        response.status = 500;
        response.set_content("{\"error\":\"internal error\"}\n", "application/json");
      });
  // Runs last, just before the head is written.
  set_post_routing_handler([this](const httplib::Request&, httplib::Response& response) {
    // The stop may have begun while the handler ran.
    current.connection->closing = current.connection->closing || draining_;
    const auto connection = current.connection->header();
    response.headers.erase("Keep-Alive");
    response.headers.erase("Accept-Ranges");
    response.headers.erase("Connection");
    if (!connection.empty()) response.set_header("Connection", std::string(connection));
    response.set_header("Date", http_date());
    response.set_header("X-Request-ID", current.exchange->request_id);
    current.exchange->status = response.status;
  });
}

Server::~Server() {
  stop(0ms);
  for (const int fd : {epoll_, wake_acceptor_, wake_workers_, listener_}) {
    if (fd >= 0) ::close(fd);
  }
}

Server& Server::Get(const std::string& path, Handler handler, std::chrono::milliseconds delay) {
  routes_[path] = {std::move(handler), delay};
  return *this;
}

Server& Server::Get(const std::string& path, httplib::Server::Handler handler) {
  return Get(path, [handler = std::move(handler)](const httplib::Request& request,
                                                  httplib::Response& response,
                                                  Exchange&) { handler(request, response); });
}

std::vector<std::string_view> Server::routes() const {
  std::vector<std::string_view> paths;
  for (const auto& [path, route] : routes_) paths.push_back(path);
  return paths;
}

// --- life cycle
// --------------------------------------------------------------------------------------

int Server::bind() {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const auto port = std::to_string(options_.port);
  if (const int error = getaddrinfo(options_.host.c_str(), port.c_str(), &hints, &found)) {
    throw std::system_error(EADDRNOTAVAIL, std::generic_category(), gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);

  int error = EADDRNOTAVAIL;
  for (const addrinfo* each = found; each != nullptr && listener_ < 0; each = each->ai_next) {
    listener_ = socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener_ < 0) {
      error = errno;
      continue;
    }
    // socket(7): lets a restart bind while old connections are in TIME_WAIT, and no more than that.
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(listener_, each->ai_addr, each->ai_addrlen) != 0 ||
        ::listen(listener_, kBacklog) != 0) {
      error = errno;
      close_listener();
    }
  }
  if (listener_ < 0) throw std::system_error(error, std::generic_category(), "cannot listen");

  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw_errno("getsockname");
  }
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

void Server::start() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_acceptor_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  wake_workers_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (epoll_ < 0 || wake_acceptor_ < 0 || wake_workers_ < 0) throw_errno("epoll");
  epoll_event event{};
  event.events = EPOLLIN;  // level-triggered and never read: it wakes every worker
  event.data.ptr = nullptr;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_workers_, &event) != 0) throw_errno("epoll_ctl");
  for (std::size_t i = 0; i < options_.threads; ++i) workers_.emplace_back([this] { work(); });
  acceptor_ = std::thread([this] { accept_loop(); });
}

bool Server::stop(std::chrono::milliseconds time) {
  if (!acceptor_.joinable()) return true;
  const auto wake = [](int fd) { [[maybe_unused]] const int error = eventfd_write(fd, 1); };
  draining_ = true;
  stopping_ = true;
  wake(wake_acceptor_);
  std::unique_lock lock(mutex_);
  const auto done = [this] { return listener_ < 0 && connections_.empty(); };
  const bool finished = all_closed_.wait_for(lock, time, done);
  if (!finished) {
    cut_off_ = true;  // the acceptor now shuts down all that is left
    lock.unlock();
    wake(wake_acceptor_);
    lock.lock();
    // A handler that runs cannot be interrupted. It gets this long to notice; then it is left
    // behind, and the process is about to end anyway.
    if (!all_closed_.wait_for(lock, 200ms, done)) {
      lock.unlock();
      ended_ = true;
      wake(wake_acceptor_);
      acceptor_.join();
      wake(wake_workers_);
      for (auto& worker : workers_) worker.detach();
      return false;
    }
  }
  lock.unlock();
  ended_ = true;
  wake(wake_acceptor_);
  acceptor_.join();
  wake(wake_workers_);
  for (auto& worker : workers_) worker.join();
  return finished;
}

void Server::close_listener() {
  ::close(listener_);
  listener_ = -1;
}

// --- the acceptor
// ------------------------------------------------------------------------------------

void Server::accept_loop() {
  bool has_delay = false;
  for (const auto& [path, route] : routes_) has_delay = has_delay || route.delay > 0ms;
  const auto tick = has_delay ? kTickWithDelay : std::chrono::milliseconds(kTick);
  while (!ended_) {
    const bool accepting = listener_ >= 0 && Clock::now() >= accept_again_;
    std::array<pollfd, 2> wanted{{{wake_acceptor_, POLLIN, 0}, {listener_, POLLIN, 0}}};
    poll(wanted.data(), accepting ? 2 : 1,
         static_cast<int>((accepting || listener_ < 0 ? tick : kFullPause).count()));
    if (wanted[0].revents != 0) {
      eventfd_t count = 0;
      eventfd_read(wake_acceptor_, &count);
    }
    if (listener_ >= 0 && (stopping_ || (accepting && wanted[1].revents != 0)))
      accept_connections();
    if (listener_ >= 0 && stopping_) {
      // All that had been accepted by the kernel was taken over just now.
      const std::lock_guard lock(mutex_);
      close_listener();
      if (connections_.empty()) all_closed_.notify_all();
    }
    watch_deadlines();
  }
}

void Server::accept_connections() {
  for (;;) {
    const bool full = open_connections_ - refused_connections_ >= options_.max_connections;
    if (full && refused_connections_ >= options_.max_refused) {
      accept_again_ = Clock::now() + kFullPause;  // the next ones wait in the backlog
      return;
    }
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // accept(2): besides EAGAIN there are lasting ones (EMFILE, ENFILE, ENOBUFS, ENOMEM) and
      // errors of a connection that is gone. None may end the service, and none may spin.
      if (errno != EAGAIN) accept_again_ = Clock::now() + kAcceptPause;
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Connection* connection = nullptr;
    try {
      const std::lock_guard lock(mutex_);
      connection = &connections_.emplace_front(fd);
      connection->self = connections_.begin();
    } catch (const std::bad_alloc&) {
      ::close(fd);
      accept_again_ = Clock::now() + kAcceptPause;
      return;
    }
    ++open_connections_;
    if (full) {
      connection->refused = true;
      ++refused_connections_;
      Exchange exchange;
      exchange.start = Clock::now();
      exchange.request_id = random_hex(32);
      exchange.trace = continue_trace({}, {});
      refuse(*connection, exchange, 503, "too many open connections");
      serve(*connection);
    } else {
      arm(*connection, Next::kRead);
    }
  }
}

// A connection that a worker owns (kBusy) is left alone until it is armed again. Shutting down the
// socket of an armed one wakes a worker, and harms none that is just being woken: what has arrived
// can still be read.
void Server::watch_deadlines() {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  for (auto& connection : connections_) {
    using Phase = Connection::Phase;
    const auto phase = connection.phase.load();
    if (phase == Phase::kBusy) continue;
    const bool expired = now >= connection.deadline.load();
    switch (phase) {
      case Phase::kBusy: break;
      case Phase::kFresh:
      case Phase::kIdle:
      case Phase::kHead:
        if (expired || cut_off_ || (stopping_ && phase == Phase::kIdle)) {
          ::shutdown(connection.fd, SHUT_RD);
        } else if (stopping_ && phase == Phase::kFresh) {
          connection.deadline = std::min(connection.deadline.load(), now + kFreshGrace);
        }
        break;
      case Phase::kWriting:
      case Phase::kLingering:
        if (expired || cut_off_) ::shutdown(connection.fd, SHUT_RDWR);
        break;
      case Phase::kHeld:
        // Nobody else owns a held connection: it is not armed.
        if (expired || cut_off_) arm(connection, Next::kWrite);
        break;
    }
  }
}

// --- the workers
// -------------------------------------------------------------------------------------

void Server::work() {
  for (;;) {
    epoll_event event{};
    if (epoll_wait(epoll_, &event, 1, -1) != 1) continue;
    if (event.data.ptr == nullptr) return;
    serve(*static_cast<Connection*>(event.data.ptr));
  }
}

void Server::serve(Connection& connection) {
  connection.phase = Connection::Phase::kBusy;
  auto next = Next::kClose;
  try {
    next = step(connection);
  } catch (...) {
    // Out of memory, outside of any handler: this connection is lost, the others live on.
  }
  if (next == Next::kClose) {
    close_connection(connection);
  } else {
    arm(connection, next);
  }
}

Server::Next Server::step(Connection& connection) {
  if (connection.held) {
    if (cut_off_) return Next::kClose;
    connection.held.reset();
    connection.due = true;
  }
  bool drained = false;
  for (int round = 0;; ++round) {
    while (connection.sent < connection.out.size()) {
      const auto count = ::send(connection.fd, connection.out.data() + connection.sent,
                                connection.out.size() - connection.sent, MSG_NOSIGNAL);
      if (count >= 0) {
        connection.sent += static_cast<std::size_t>(count);
      } else if (errno == EAGAIN) {
        const auto now = Clock::now();
        if (connection.write_start == Clock::time_point{}) connection.write_start = now;
        return now >= connection.write_start + options_.write_timeout || cut_off_ ? Next::kClose
                                                                                  : Next::kWrite;
      } else if (errno != EINTR) {
        return Next::kClose;
      }
    }
    std::string().swap(connection.out);
    connection.sent = 0;
    connection.write_start = {};

    if (!connection.closing) {
      while (connection.out.size() < kMaxUnsent && !connection.closing && !connection.held &&
             answer_next(connection)) {
      }
      if (!connection.out.empty()) continue;
      if (connection.held) return Next::kHold;
      if (round >= kMaxRoundsPerTurn) return Next::kWrite;  // it is writable: the others first
    } else if (!connection.shut) {
      // RFC 9112, section 9.6: close our side first and read on until the client has closed, or the
      // reset that answers its unread bytes might destroy our answer on its way.
      ::shutdown(connection.fd, SHUT_WR);
      connection.shut = true;
      connection.deadline = Clock::now() + options_.linger_timeout;
    }
    if (connection.eof) return Next::kClose;
    // What came after a read that took all there was will wake us again.
    if (drained || (connection.closing && round >= kMaxRoundsPerTurn)) {
      return connection.closing ? Next::kLinger : Next::kRead;
    }

    thread_local std::array<char, kReadSize> buffer;
    const auto count = ::recv(connection.fd, buffer.data(), buffer.size(), 0);
    if (count > 0) {
      drained = static_cast<std::size_t>(count) < buffer.size();
      if (connection.closing) {
        connection.thrown_away += static_cast<std::size_t>(count);
        if (connection.thrown_away > kMaxLinger || Clock::now() >= connection.deadline.load()) {
          return Next::kClose;
        }
        continue;
      }
      if (connection.in.empty()) connection.head_start = Clock::now();
      connection.in.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0) {
      connection.eof = true;
      // The client has closed, or the acceptor has because the deadline passed.
      if (connection.closing || connection.in.empty()) return Next::kClose;
      if (Clock::now() < connection.head_start + options_.head_timeout) return Next::kClose;
      refuse_head(connection, Refusal{408, "the request head did not arrive in time", {}, {}});
    } else if (errno == EAGAIN) {
      return connection.closing ? Next::kLinger : Next::kRead;
    } else if (errno != EINTR) {
      return Next::kClose;
    }
  }
}

/// Answers the first request of `in`, if it is complete or can be refused. Returns whether it did:
/// where not, more bytes are needed, or the connection is held.
bool Server::answer_next(Connection& connection) {
  if (connection.in.empty()) return false;
  const auto parsed = parse_request_head(connection.in);
  if (std::holds_alternative<IncompleteHead>(parsed)) return false;
  const Active active(active_requests_);
  if (const auto* refusal = std::get_if<Refusal>(&parsed)) {
    refuse_head(connection, *refusal);
  } else {
    const auto& head = std::get<RequestHead>(parsed);
    const auto size = head.size;
    if (!answer(connection, head)) return false;
    if (size == connection.in.size()) {
      std::string().swap(connection.in);  // an idle connection keeps no buffer
    } else {
      connection.in.erase(0, size);
    }
    connection.head_start = Clock::now();
  }
  connection.answered = true;
  return true;
}

/// Returns false if the request is held, to be answered at `deadline`.
bool Server::answer(Connection& connection, const RequestHead& head) {
  const auto now = Clock::now();
  const auto path = percent_decode(head.path, false);
  const auto route = routes_.find(path);
  const auto delay = route == routes_.end() ? 0ms : route->second.delay;
  if (delay > 0ms && !connection.due) {
    connection.deadline = now + delay;
    connection.held = std::make_unique<Active>(active_requests_);
    return false;
  }
  connection.due = false;

  Exchange exchange;
  exchange.start = now - delay;
  exchange.method = head.method;
  exchange.endpoint = head.path;
  exchange.request_id = accept_request_id(head.sole("x-request-id"));
  exchange.trace = continue_trace(head.sole("traceparent"), head.list("tracestate"));
  const bool readable = head.method == "GET" || head.method == "HEAD";
  connection.closing = !head.keep_alive || draining_ || !readable;
  connection.http_1_0 = head.http_1_0;
  if (route == routes_.end()) {
    refuse(connection, exchange, 404, "no such path");
    return true;
  }
  exchange.route = route->first;
  if (!readable) {
    refuse(connection, exchange, 405, "only GET and HEAD are allowed here", "Allow: GET, HEAD\r\n");
    return true;
  }

  const auto answer_start = connection.out.size();
  try {
    // cpp-httplib sees nothing that a client has written: no header, and no query before it is
    // split.
    const std::string request =
        exchange.method + " " + route->first + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
    RequestStream stream(request, connection.out);
    current = {&exchange, &route->second.handler, &connection};
    const auto setup = [&](httplib::Request& parsed) { add_query(parsed, head.query); };
    bool closed = false;
#ifdef CPPHTTPLIB_HEADER_MAX_COUNT  // a newer version, which asks for the addresses
    process_request(stream, {}, 0, {}, 0, connection.closing, closed, setup);
#else
    process_request(stream, connection.closing, closed, setup);
#endif
  } catch (const std::exception& error) {
    // What the library itself or the hooks above throw, memory most likely.
    connection.out.resize(answer_start);
    exchange.note("error", error.what());
    refuse(connection, exchange, 500, "internal error");
    return true;
  }
  finish(exchange);
  return true;
}

void Server::refuse_head(Connection& connection, const Refusal& refusal) {
  Exchange exchange;
  exchange.start = Clock::now();
  exchange.method = refusal.method;
  exchange.endpoint = refusal.path;
  exchange.request_id = random_hex(32);
  exchange.trace = continue_trace({}, {});
  refuse(connection, exchange, refusal.status, refusal.error);
}

/// An answer that no handler gives. `field`: a further header line, with its CRLF.
void Server::refuse(Connection& connection, Exchange& exchange, int status, std::string_view error,
                    std::string_view field) {
  exchange.status = status;
  exchange.outcome = status == 404 || status == 405 ? Exchange::Outcome::kOk
                     : status == 500                ? Exchange::Outcome::kFailed
                                                    : Exchange::Outcome::kRefused;
  if (status != 404) connection.closing = true;
  const std::string body = "{\"error\":\"" + std::string(error) + "\"}\n";
  auto& out = connection.out;
  out += "HTTP/1.1 " + std::to_string(status) + " ";
  out += reason_phrase(status);
  out += "\r\n";
  out += field;
  if (const auto value = connection.header(); !value.empty()) {
    out.append("Connection: ").append(value).append("\r\n");
  }
  out += "Content-Length: " + std::to_string(body.size()) +
         "\r\nContent-Type: application/json\r\nDate: " + http_date() +
         "\r\nX-Request-ID: " + exchange.request_id + "\r\n\r\n";
  if (exchange.method != "HEAD") out += body;
  finish(exchange);
}

void Server::finish(Exchange& exchange) {
  exchange.latency = Clock::now() - exchange.start;
  try {
    if (observer_) observer_(exchange);
  } catch (...) {
    // The answer stands even where its log line cannot be written.
  }
}

void Server::arm(Connection& connection, Next next) {
  using Phase = Connection::Phase;
  const auto now = Clock::now();
  epoll_event event{};
  event.data.ptr = &connection;
  event.events = EPOLLONESHOT | (next == Next::kWrite ? EPOLLOUT : EPOLLIN);
  const int fd = connection.fd;
  auto phase = Phase::kWriting;
  switch (next) {
    case Next::kRead:
      phase = !connection.in.empty() ? Phase::kHead
              : connection.answered  ? Phase::kIdle
                                     : Phase::kFresh;
      connection.deadline = phase == Phase::kHead ? connection.head_start + options_.head_timeout
                                                  : now + options_.idle_timeout;
      break;
    case Next::kWrite: connection.deadline = now + options_.write_timeout; break;
    case Next::kHold:
      connection.phase = Phase::kHeld;  // from here on it is the acceptor's
      return;
    case Next::kLinger: phase = Phase::kLingering; break;
    case Next::kClose: return;
  }
  connection.phase = phase;
  // Added only now: what is in the epoll can be woken by EPOLLHUP and EPOLLERR whatever it waits
  // for.
  const int operation = connection.in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  connection.in_epoll = true;
  // Once armed, the connection may be another worker's, or gone. Only adding can fail, for want of
  // memory.
  if (epoll_ctl(epoll_, operation, fd, &event) != 0) close_connection(connection);
}

void Server::close_connection(Connection& connection) {
  const std::lock_guard lock(mutex_);
  ::close(connection.fd);
  if (connection.refused) --refused_connections_;
  --open_connections_;
  connections_.erase(connection.self);
  if (connections_.empty()) all_closed_.notify_all();
}

}  // namespace common::http
