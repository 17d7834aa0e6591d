#include "common/http/server_connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <ctime>

#include "common/http/fiber.hpp"
#include "common/http/url.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kReadSize = 16'384;  // bytes taken from a socket at once
constexpr int kMaxWork = 4;                // reads and answers before other connections go on
// For the first request of a connection that is over the limit, or was accepted before the stop.
constexpr auto kFirstRequestGrace = 200ms;

constexpr Refusal kTooMany{503, "too many open connections", {}, {}};
constexpr Refusal kLate{408, "the request head did not arrive in time", {}, {}};

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

// WHATWG URL, section 5.1. Version 0.11 of cpp-httplib also decodes %uXXXX, which nobody else does,
// and refuses a query with a '?'.
void add_params(httplib::Params& params, std::string_view query) {
  while (!query.empty()) {
    const auto pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    if (pair.empty()) continue;
    const auto equals = std::min(pair.find('='), pair.size());
    params.emplace(percent_decode(pair.substr(0, equals), true),
                   percent_decode(pair.substr(std::min(equals + 1, pair.size())), true));
  }
}

bool has_no_effect(std::string_view field) {
  return equal_ignoring_case(field, "range") || equal_ignoring_case(field, "expect") ||
         equal_ignoring_case(field, "accept-encoding");
}

}  // namespace

void answer_error(httplib::Response& response, int status, std::string_view sentence) {
  response.status = status;
  response.set_content("{\"error\":\"" + std::string(sentence) + "\"}\n", "application/json");
}

/// A request on its fiber, or what was no request and is refused.
class ServerConnection::Answering final : public Fiber, private BufferedStream {
 public:
  /// One of both may be nullptr. They have to last until the fiber's first wait.
  Answering(ServerConnection& connection, const RequestHead* head, const Refusal* refusal)
      : Fiber(connection.loop()),
        connection_(connection),
        head_(head),
        refusal_(refusal),
        output_start_(connection.out_.size()) {
    ++connection.server_.active_requests_;
    exchange.start = Clock::now();
    exchange.method = head ? head->method : refusal->method;
    exchange.endpoint = head ? head->path : refusal->path;
    exchange.request_id = accept_request_id(head ? head->only("x-request-id") : "");
    exchange.trace = head ? continue_trace(head->only("traceparent"), head->list("tracestate"))
                          : continue_trace({}, {});
  }
  ~Answering() override { --connection_.server_.active_requests_; }

  static Answering& current() { return static_cast<Answering&>(Fiber::current()); }

  Exchange exchange;

  const Refusal* refusal() const { return refusal_; }
  const Server::Port& port() const { return connection_.port_; }

  /// The post-routing handler: the last to see the header fields.
  void finish_headers(const httplib::Request& request, httplib::Response& response) {
    exchange.status = response.status;
    auto& state = connection_.state_;
    if (close_after_ || connection_.server_.draining()) state = std::max(state, State::kLast);
    auto& headers = response.headers;
    if (state == State::kOpen) {
      headers.erase("Connection");
      if (request.version == "HTTP/1.0") headers.emplace("Connection", "keep-alive");
    }
    if (request.method == "HEAD") headers.erase("Accept-Ranges");  // which GET would not have
    headers.emplace("Cache-Control", "no-store");
    headers.emplace("Date", http_date());
    headers.emplace("X-Request-ID", exchange.request_id);
  }

 private:
  void run() override {
    unread_ = "GET / HTTP/1.1\r\n\r\n";
    answered_ =
        connection_.server_.process(*this, [this](httplib::Request& request) { set_up(request); });
  }

  /// Puts in what parse_request_head() has read: cpp-httplib's own parser would decode escapes in
  /// header fields, and refuse methods that it does not know.
  void set_up(httplib::Request& request) {
    request.headers.clear();
    request.method = exchange.method;
    request.remote_addr = connection_.peer_.host;
    request.remote_port = connection_.peer_.port;
    if (refusal_ != nullptr) {
      close_after_ = true;
      return;
    }
    close_after_ = !head_->keep_alive || (request.method != "GET" && request.method != "HEAD");
    request.version = head_->http_1_0 ? "HTTP/1.0" : "HTTP/1.1";
    request.path = percent_decode(head_->path, false);
    request.target = head_->path;
    if (!head_->query.empty()) request.target.append("?").append(head_->query);
    add_params(request.params, head_->query);
    for (const auto& [name, value] : head_->fields) {
      if (!has_no_effect(name)) request.headers.emplace(name, value);
    }
  }

  void finished(std::exception_ptr error) override {
    if (error || !answered_) connection_.out_.resize(output_start_);
    connection_.complete(!error && answered_);
  }

  // BufferedStream
  ssize_t fill() override { return 0; }
  ssize_t write(const char* data, size_t size) override {
    connection_.out_.append(data, size);
    return static_cast<ssize_t>(size);
  }

  ServerConnection& connection_;
  const RequestHead* const head_;
  const Refusal* const refusal_;
  const std::size_t output_start_;
  bool close_after_ = false;
  bool answered_ = false;
};

// --- the server's part of cpp-httplib's routing

Server::Server(ServerOptions options)
    : options_(std::move(options)),
      main_{Ports::kMain, options_.max_connections},
      admin_{Ports::kAdmin, options_.max_admin_connections} {
  for (std::size_t i = 0; i < options_.threads; ++i) loops_.push_back(std::make_unique<Loop>(i));
  using httplib::Request;
  using httplib::Response;
  // Version 0.11 would match each route with a std::regex.
  set_pre_routing_handler([this](const Request& request, Response& response) {
    route(request, response);
    return HandlerResponse::Handled;
  });
  set_exception_handler([](const Request&, Response& response, const std::exception_ptr& error) {
    auto& exchange = ServerConnection::Answering::current().exchange;
    exchange.outcome = Exchange::Outcome::kFailed;
    exchange.notes.clear();  // they are about the answer that is not sent
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& thrown) {
      exchange.note("error", thrown.what());
    } catch (...) {
      exchange.note("error", "something that is no std::exception");
    }
    response = {};
    answer_error(response, 500, "internal error");
  });
  set_post_routing_handler([](const Request& request, Response& response) {
    ServerConnection::Answering::current().finish_headers(request, response);
  });
}

void Server::route(const httplib::Request& request, httplib::Response& response) {
  auto& answering = ServerConnection::Answering::current();
  auto& exchange = answering.exchange;
  if (const auto* refusal = answering.refusal()) {
    exchange.outcome = Exchange::Outcome::kRefused;
    return answer_error(response, refusal->status, refusal->error);
  }
  const auto found = routes_.find(request.path);
  if (found == routes_.end() ||
      (found->second.ports != Ports::kBoth && found->second.ports != answering.port().id)) {
    return answer_error(response, 404, "no such path");
  }
  exchange.route = found->first;
  if (request.method != "GET" && request.method != "HEAD") {
    answer_error(response, 405, "only GET and HEAD are allowed here");
    return response.set_header("Allow", "GET, HEAD");
  }
  found->second.handler(request, response, exchange);
  if (has_content_provider(response)) throw std::logic_error("content providers are not supported");
}

// --- the connection

ServerConnection::ServerConnection(Loop& loop, Server& server, Server::Port& port, bool over_limit,
                                   BaseUrl peer)
    : Watcher(loop),
      server_(server),
      port_(port),
      over_limit_(over_limit),
      peer_(std::move(peer)) {}

ServerConnection::~ServerConnection() { server_.connection_closed(port_, over_limit_); }

void ServerConnection::start(int fd) {
  // Where the kernel has no memory for this, the deadline ends it.
  watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
  since_ = Clock::now();
  advance();
}

void ServerConnection::on_events(std::uint32_t events) {
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    input_ = std::max(input_, Input::kHangingUp);
  } else if ((events & EPOLLIN) != 0) {
    input_ = std::max(input_, Input::kReady);
  }
  if (!waits_to_run_again()) advance();
}

void ServerConnection::on_deadline() {
  // Where this process was stopped for a while, what has come in the meantime counts.
  char byte = 0;
  if (state_ == State::kOpen && out_.empty() && ::recv(fd(), &byte, 1, MSG_PEEK) > 0) {
    input_ = std::max(input_, Input::kReady);
    return advance();
  }
  const bool awaits_head = state_ == State::kOpen && out_.empty();
  if (awaits_head && over_limit_) return advance(&kTooMany);
  if (awaits_head && !in_.empty()) return advance(&kLate);
  end();
}

void ServerConnection::on_drain() {
  input_ = std::max(input_, Input::kReady);  // a request that is there already shall be answered
  advance();
}

/// Answers with `refusal`, if there is one, and does all else that can be done now.
void ServerConnection::advance(const Refusal* refusal) {
  advancing_ = true;
  try {
    answer_and_receive(refusal);
  } catch (const std::exception&) {
    end();  // no memory, even for an answer: this connection is lost, the others live on
  }
  advancing_ = false;
}

void ServerConnection::answer_and_receive(const Refusal* refusal) {
  if (refusal != nullptr) begin(nullptr, refusal);
  for (int work = 0;; ++work) {
    if (state_ == State::kBroken || !flush()) return;
    while (work < kMaxWork && answer_next()) ++work;
    if (!out_.empty()) continue;
    if (answering_) return set_deadline(kNever);
    if (state_ == State::kLast) {
      // RFC 9112, section 9.6: close our side first and read on until the client has closed, or the
      // reset that answers its unread bytes might destroy our answer on its way.
      ::shutdown(fd(), SHUT_WR);
      state_ = State::kLingering;
      set_deadline(Clock::now() + server_.options_.linger_timeout);
    }
    if (work >= kMaxWork) {
      if (state_ == State::kOpen) set_deadline(kNever);
      return run_again_later();
    }
    if (input_ == Input::kEnded) return end();
    if (input_ == Input::kNone) return wait();
    if (!receive()) return end();
  }
}

/// Closes the connection: at once, or where a handler is still at work, when it has ended.
void ServerConnection::end() {
  state_ = State::kBroken;
  set_deadline(kNever);
  if (!answering_) close();
}

/// Returns whether all is sent. Where not, the rest waits for the client, or the connection is
/// closed.
bool ServerConnection::flush() {
  if (out_.empty()) return true;
  while (sent_ < out_.size()) {
    const auto count = ::send(fd(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (count >= 0) {
      sent_ += static_cast<std::size_t>(count);
    } else if (errno == EAGAIN) {
      set_deadline(since_ + server_.options_.write_timeout);
      return false;
    } else if (errno != EINTR) {
      end();
      return false;
    }
  }
  std::string().swap(out_);  // an idle connection keeps no buffer
  sent_ = 0;
  return true;
}

/// Takes what has arrived. Returns whether the connection goes on.
bool ServerConnection::receive() {
  thread_local std::array<char, kReadSize> buffer;
  const auto count = ::recv(fd(), buffer.data(), buffer.size(), 0);
  if (count < 0) {
    if (errno == EAGAIN) input_ = Input::kNone;
    return errno == EAGAIN || errno == EINTR;
  }
  const auto size = static_cast<std::size_t>(count);
  // epoll(7): behind a short read there is nothing, but perhaps the end of the stream.
  if (size == 0) {
    input_ = Input::kEnded;
  } else if (size < buffer.size() && input_ == Input::kReady) {
    input_ = Input::kNone;
  }
  if (state_ != State::kOpen) return true;  // thrown away
  if (in_.empty() && !over_limit_) since_ = Clock::now();
  in_.append(buffer.data(), size);
  return true;
}

void ServerConnection::wait() {
  if (state_ != State::kOpen) return;  // the deadline stands
  const bool stopping = server_.phase_ == Server::Phase::kStopping;
  if (over_limit_) {
    set_deadline(since_ + kFirstRequestGrace);
  } else if (!in_.empty()) {
    set_deadline(since_ + server_.options_.head_timeout);
  } else if (stopping && answered_) {
    end();
  } else {
    set_deadline(Clock::now() + (stopping ? kFirstRequestGrace : server_.options_.idle_timeout));
  }
}

/// Begins to answer the first request of in_, if it is complete or can be refused. Returns whether
/// it did.
bool ServerConnection::answer_next() {
  if (in_.empty() || state_ != State::kOpen || answering_) return false;
  const auto parsed = parse_request_head(in_);
  if (std::holds_alternative<IncompleteHead>(parsed)) {
    // RFC 9112, section 2.2: some clients send an empty line behind a request. It begins no head.
    if (in_ == "\r\n") std::string().swap(in_);
    return false;
  }
  answered_ = true;
  const auto* head = std::get_if<RequestHead>(&parsed);
  // Only now: a client that is answered before it has asked may take that for nonsense.
  begin(head, head != nullptr && over_limit_ ? &kTooMany : std::get_if<Refusal>(&parsed));
  if (head == nullptr || head->size == in_.size()) {
    std::string().swap(in_);
  } else {
    in_.erase(0, head->size);
  }
  return true;
}

void ServerConnection::begin(const RequestHead* head, const Refusal* refusal) {
  if (refusal != nullptr) state_ = State::kLast;
  answering_ = std::make_unique<Answering>(*this, head, refusal);
  answering_->start();
}

/// The fiber has ended. `answered`: out_ has the answer.
void ServerConnection::complete(bool answered) {
  auto answering = std::move(answering_);
  if (answered) {
    since_ = Clock::now();  // and not earlier for a head that had to wait behind this answer
    answering->exchange.latency = since_ - answering->exchange.start;
    if (server_.observer_) server_.observer_(answering->exchange);
  } else {
    state_ = std::max(state_, State::kLast);
  }
  answering.reset();
  if (state_ == State::kBroken) return end();
  if (!advancing_) advance();
}

}  // namespace common::http
