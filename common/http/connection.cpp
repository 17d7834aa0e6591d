#include "common/http/connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <ctime>

#include "common/http/request_head.hpp"
#include "common/http/url.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kReadSize = 16'384;  // bytes taken from a socket at once
constexpr int kMaxWork = 4;                // reads and answers before the others have their turn
// For the first request of a connection that was accepted before the stop.
constexpr auto kFreshGrace = 200ms;

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 414: return "URI Too Long";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
  }
  return "";  // RFC 9112, section 4: it may be left out
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

Loop& PendingExchange::loop() const { return connection.loop(); }

void PendingExchange::fail(const char* what) noexcept {
  outcome = Outcome::kFailed;
  response = {};
  notes.clear();  // they are about the answer that is not sent
  try {
    answer_error(response, 500, "internal error");
    note("error", what);
  } catch (...) {
    // No memory for more than the status.
  }
}

void PendingExchange::send() { connection.complete(); }

Connection::Connection(Loop& loop, Server& server, bool surplus)
    : Watcher(loop), server_(server), surplus_(surplus) {}

Connection::~Connection() { server_.connection_closed(surplus_); }

void Connection::start(int fd) {
  // Where the kernel has no memory for this, the deadline ends it.
  watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
  const Refusal full{503, "too many open connections", {}, {}};
  advance(surplus_ ? &full : nullptr);
}

void Connection::on_events(std::uint32_t events) {
  hung_up_ = hung_up_ || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  readable_ = readable_ || (events & EPOLLIN) != 0 || hung_up_;
  if (!waits_its_turn()) advance();
}

void Connection::on_deadline() {
  if (closing_ || !out_.empty() || in_.empty()) return end();
  const Refusal late{408, "the request head did not arrive in time", {}, {}};
  advance(&late);
}

void Connection::on_drain() {
  readable_ = true;  // a request that is there already shall be answered
  advance();
}

/// Answers with `refusal`, if there is one, and does all else that can be done now.
void Connection::advance(const Refusal* refusal) {
  advancing_ = true;
  try {
    try {
      if (refusal != nullptr) refuse(*refusal);
      answer_and_receive();
    } catch (const std::bad_alloc&) {  // outside of any handler
      if (exchange_ || closing_) throw;
      refuse({500, "internal error", {}, {}});
      answer_and_receive();
    }
  } catch (...) {
    end();  // not even for that: this connection is lost, the others live on
  }
  advancing_ = false;
}

void Connection::answer_and_receive() {
  for (int work = 0;; ++work) {
    if (broken_ || !flush()) return;
    while (work < kMaxWork && answer_next()) ++work;
    if (!out_.empty()) continue;
    if (exchange_) return set_deadline(kNever);
    if (closing_ && !shut_) {
      // RFC 9112, section 9.6: close our side first and read on until the client has closed, or the
      // reset that answers its unread bytes might destroy our answer on its way.
      ::shutdown(fd(), SHUT_WR);
      shut_ = true;
      set_deadline(Clock::now() + server_.options_.linger_timeout);
    }
    if (work >= kMaxWork) {
      if (!closing_) set_deadline(kNever);
      return loop().again(*this);
    }
    if (eof_) return end();
    if (!readable_) return wait();
    if (!receive()) return end();
  }
}

/// Closes the connection: at once, or where a handler still has the exchange, when it has answered.
void Connection::end() {
  broken_ = true;
  set_deadline(kNever);
  if (!exchange_) close();
}

/// Returns whether all is sent. Where not, the rest waits for the client, or the connection is
/// closed.
bool Connection::flush() {
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
  std::string().swap(out_);
  sent_ = 0;
  return true;
}

/// Takes what has arrived. Returns whether the connection goes on.
bool Connection::receive() {
  thread_local std::array<char, kReadSize> buffer;
  const auto count = ::recv(fd(), buffer.data(), buffer.size(), 0);
  if (count < 0) {
    readable_ = errno == EINTR;
    return errno == EAGAIN || errno == EINTR;
  }
  const auto size = static_cast<std::size_t>(count);
  // epoll(7): behind a short read there is nothing, but perhaps the end of the stream.
  readable_ = size == buffer.size() || hung_up_;
  eof_ = size == 0;
  if (closing_) return true;  // thrown away
  if (in_.empty()) since_ = Clock::now();
  in_.append(buffer.data(), size);
  return true;
}

void Connection::wait() {
  if (closing_) return;  // the deadline stands
  if (!in_.empty()) {
    set_deadline(since_ + server_.options_.head_timeout);
  } else if (server_.stopping_ && answered_) {
    end();
  } else {
    set_deadline(Clock::now() + (server_.stopping_ ? kFreshGrace : server_.options_.idle_timeout));
  }
}

/// Answers the first request of in_, or has it answered, if it is complete or can be refused.
/// Returns whether it did.
bool Connection::answer_next() {
  if (in_.empty() || closing_ || exchange_) return false;
  const auto parsed = parse_request_head(in_);
  if (std::holds_alternative<IncompleteHead>(parsed)) return false;
  answered_ = true;
  if (const auto* refusal = std::get_if<Refusal>(&parsed)) {
    refuse(*refusal);
    return true;
  }
  const auto& head = std::get<RequestHead>(parsed);
  begin(head);
  if (head.size == in_.size()) {
    std::string().swap(in_);  // an idle connection keeps no buffer
  } else {
    in_.erase(0, head.size);
  }
  return true;
}

void Connection::begin(const RequestHead& head) {
  exchange_ = std::make_unique<PendingExchange>(*this);
  ++server_.active_requests_;
  auto& exchange = *exchange_;
  const bool readable = head.method == "GET" || head.method == "HEAD";
  last_ = !head.keep_alive || !readable;
  http_1_0_ = head.http_1_0;
  try {
    exchange.start = Clock::now();
    exchange.method = head.method;
    exchange.endpoint = head.path;
    exchange.request_id = accept_request_id(head.sole("x-request-id"));
    exchange.trace = continue_trace(head.sole("traceparent"), head.list("tracestate"));
    exchange.request.method = head.method;
    exchange.request.path = percent_decode(head.path, false);
    const auto route = server_.routes_.find(exchange.request.path);
    if (route == server_.routes_.end()) {
      exchange.answer([&] { answer_error(exchange.response, 404, "no such path"); });
      return;
    }
    exchange.route = route->first;
    if (!readable) {
      exchange.answer([&] {
        answer_error(exchange.response, 405, "only GET and HEAD are allowed here");
        exchange.response.set_header("Allow", "GET, HEAD");
      });
      return;
    }
    add_query(exchange.request, head.query);
    route->second(exchange);
  } catch (...) {
    if (exchange_) exchange.answer([] { throw; });
  }
}

void Connection::complete() {
  const auto exchange = std::move(exchange_);
  --server_.active_requests_;
  closing_ = last_ || server_.draining_;
  const auto start = out_.size();
  try {
    try {
      write(*exchange, exchange->response);
    } catch (const std::exception& error) {
      out_.resize(start);
      exchange->fail(error.what());
      write(*exchange, exchange->response);
    }
  } catch (...) {
    out_.resize(start);
    closing_ = true;
  }
  if (broken_) return end();
  if (!advancing_) advance();
}

/// An answer to what was no request; nobody can say where the next one would begin.
void Connection::refuse(const Refusal& refusal) {
  closing_ = true;
  Exchange exchange;
  exchange.outcome = Exchange::Outcome::kRefused;
  if (refusal.status == 500) {
    exchange.outcome = Exchange::Outcome::kFailed;
    exchange.note("error", "no memory to read the request");
  }
  exchange.start = Clock::now();
  exchange.method = refusal.method;
  exchange.endpoint = refusal.path;
  exchange.request_id = random_hex(32);
  exchange.trace = continue_trace({}, {});
  httplib::Response response;
  answer_error(response, refusal.status, refusal.error);
  write(exchange, response);
}

void Connection::write(Exchange& exchange, const httplib::Response& response) {
  exchange.status = response.status > 0 ? response.status : 200;
  since_ = Clock::now();  // and not earlier for a head that had to wait behind this answer
  exchange.latency = since_ - exchange.start;
  const auto add = [this](std::string_view name, std::string_view value) {
    out_.append(name).append(": ").append(value).append("\r\n");
  };
  out_.reserve(out_.size() + 384 + response.body.size());
  out_.append("HTTP/1.1 ").append(std::to_string(exchange.status)).append(" ");
  out_.append(reason_phrase(exchange.status)).append("\r\n");
  add("Content-Length", std::to_string(response.body.size()));
  for (const auto& [name, value] : response.headers) add(name, value);
  add("Date", http_date());
  add("X-Request-ID", exchange.request_id);
  if (closing_) {
    add("Connection", "close");
  } else if (http_1_0_) {
    add("Connection", "keep-alive");
  }
  out_.append("\r\n");
  if (exchange.method != "HEAD") out_.append(response.body);
  try {
    if (server_.observer_) server_.observer_(exchange);
  } catch (...) {
    // The answer stands even where its log line cannot be written.
  }
}

}  // namespace common::http
