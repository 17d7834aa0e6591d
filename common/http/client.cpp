#include "common/http/client.hpp"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "common/http/resolver.hpp"
#include "common/http/response_message.hpp"
#include "common/http/stream.hpp"

namespace common::http {
namespace {

using Clock = std::chrono::steady_clock;

// Chunked framing may be larger than what it carries. This bounds it, head included.
constexpr std::size_t kMaxReceived = 8 * kMaxResponseBody;

std::string text_of(int error) { return std::generic_category().message(error); }

CallFailure failure_of(int error) {
  switch (error) {
    case ECONNREFUSED: return {CallError::kConnectionRefused, {}};
    case ETIMEDOUT:  // the kernel gave up before we did
      return {CallError::kTimeout, text_of(error)};
    case ECONNRESET:
    case EPIPE: return {CallError::kConnectionClosed, {}};
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM: return {CallError::kOverloaded, text_of(error)};
    default:  // no route, network down, not permitted by a filter: connect(2)
      return {CallError::kUnreachable, text_of(error)};
  }
}

/// Waits for `events`. Returns false once the deadline has passed.
bool wait_for(int fd, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd wanted{fd, events, 0};
    const int ready = poll(&wanted, 1, static_cast<int>(left));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // the next call on `fd` says what is wrong
  }
}

/// Between cpp-httplib and the socket: sends what it writes, and on the first read receives the
/// whole answer, checks it, and lets cpp-httplib read a plain copy of it.
class CallStream final : public MemoryStream {
 public:
  CallStream(int fd, Clock::time_point deadline) : fd_(fd), deadline_(deadline) {}

  ssize_t write(const char* data, size_t size) override {
    size_t sent = 0;
    while (sent < size && !failure_) {
      const auto count = ::send(fd_, data + sent, size - sent, MSG_NOSIGNAL);
      if (count >= 0) {
        sent += static_cast<size_t>(count);
      } else if (errno == EAGAIN) {
        if (!wait_for(fd_, POLLOUT, deadline_)) failure_ = {CallError::kTimeout, "while sending"};
      } else if (errno != EINTR) {
        // It may have answered before it closed: an answer is looked for all the same.
        return static_cast<ssize_t>(size);
      }
    }
    return failure_ ? -1 : static_cast<ssize_t>(size);
  }
  using Stream::write;

  ssize_t read(char* data, size_t size) override {
    if (!complete_ && !failure_) receive();
    if (failure_) return -1;
    const auto count = plain_.copy(data, size, taken_);
    taken_ += count;
    return static_cast<ssize_t>(count);
  }

  const std::optional<CallFailure>& failure() const { return failure_; }
  bool received_anything() const { return received_anything_; }
  bool reusable() const { return complete_ && reusable_; }

 private:
  void receive() {
    std::string received;
    std::array<char, 16'384> buffer;
    bool ended = false;
    bool reset = false;
    while (!complete_ && !failure_) {
      const auto count = ended ? 0 : ::recv(fd_, buffer.data(), buffer.size(), 0);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EAGAIN) {
        if (!wait_for(fd_, POLLIN, deadline_)) {
          failure_ = {CallError::kTimeout,
                      received.empty() ? "waiting for the answer" : "the answer is not complete"};
        }
        continue;
      }
      if (count > 0) {
        received.append(buffer.data(), static_cast<std::size_t>(count));
        received_anything_ = true;
        // Data that never ends must not outrun the clock.
        if (Clock::now() >= deadline_) {
          failure_ = {CallError::kTimeout, "the answer is not complete"};
          continue;
        }
      } else {
        ended = true;
        reset = count < 0;  // a reset ends no body: only an orderly close does
      }
      if (received.size() > kMaxReceived) {
        failure_ = {CallError::kBadResponse, "is larger than 64 KiB"};
        continue;
      }
      if (received.empty() || reset) {
        if (ended) failure_ = {CallError::kConnectionClosed, {}};
        continue;
      }
      take(parse_response(received, ended));
    }
  }

  void take(const std::variant<IncompleteResponse, ResponseMessage, TruncatedResponse,
                               MalformedResponse>& parsed) {
    if (const auto* malformed = std::get_if<MalformedResponse>(&parsed)) {
      failure_ = {CallError::kBadResponse, malformed->error};
    } else if (std::holds_alternative<TruncatedResponse>(parsed)) {
      failure_ = {CallError::kConnectionClosed, {}};
    } else if (const auto* message = std::get_if<ResponseMessage>(&parsed)) {
      if (message->status != 200) {
        failure_ = {CallError::kBadStatus, {}, message->status};
        return;
      }
      complete_ = true;
      reusable_ = message->reusable;
      plain_ = "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(message->body.size()) +
               "\r\n\r\n" + message->body;
    }
  }

  const int fd_;
  const Clock::time_point deadline_;
  std::optional<CallFailure> failure_;
  std::string plain_;
  std::size_t taken_ = 0;
  bool complete_ = false;
  bool reusable_ = false;
  bool received_anything_ = false;
};

/// Gives calls_ back, however a call ends.
class Permit {
 public:
  Permit(std::atomic<std::size_t>& calls, std::size_t max) : calls_(calls) {
    granted_ = calls_.fetch_add(1) < max;
  }
  ~Permit() { --calls_; }
  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;
  bool granted() const { return granted_; }

 private:
  std::atomic<std::size_t>& calls_;
  bool granted_;
};

}  // namespace

/// A connected socket, and the part of cpp-httplib that writes a request and reads its answer.
struct Client::Connection final : private httplib::ClientImpl {
  Connection(int descriptor, const BaseUrl& url)
      : httplib::ClientImpl(url.host, url.port), fd(descriptor) {
    set_decompress(false);
    set_follow_location(false);
  }
  ~Connection() override { ::close(fd); }

  /// What has arrived, or has been closed, since the last call shows that it cannot be used any
  /// more.
  bool usable() const {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }

  Attempt get(const std::string& target, const httplib::Headers& headers, CallStream& stream) {
    httplib::Request request;
    request.method = "GET";
    request.path = target;
    request.headers = headers;
    httplib::Response response;
    auto error = httplib::Error::Success;
    const bool answered = process_request(stream, request, response, false, error);
    if (stream.failure()) return *stream.failure();
    if (!answered) return CallFailure{CallError::kBadResponse, "is not an HTTP answer"};
    return std::move(response.body);
  }

  const int fd;
  const Clock::time_point connected = Clock::now();
  Clock::time_point idle_since{};
};

Client::Client(BaseUrl url, ClientOptions options)
    : url_(std::move(url)), options_(std::move(options)) {}
Client::~Client() = default;

std::variant<std::string, CallFailure> Client::get(const std::string& target,
                                                   const httplib::Headers& headers) {
  const auto deadline = Clock::now() + options_.budget;
  const Permit permit(calls_, options_.max_calls);
  if (!permit.granted()) return CallFailure{CallError::kOverloaded, {}};

  httplib::Headers all = headers;
  all.emplace("Host", url_.authority());
  all.emplace("User-Agent", options_.user_agent);
  all.emplace("Accept", "application/json");
  all.emplace("Accept-Encoding", "identity");

  auto connection = take_idle();
  for (;;) {
    const bool reused = connection != nullptr;
    if (!reused) {
      auto connected = connect(deadline);
      if (auto* failure = std::get_if<CallFailure>(&connected)) return std::move(*failure);
      connection = std::move(std::get<std::unique_ptr<Connection>>(connected));
    }
    CallStream stream(connection->fd, deadline);
    auto attempt = connection->get(target, all, stream);
    if (stream.reusable()) keep(std::move(connection));
    const auto* failure = std::get_if<CallFailure>(&attempt);
    // RFC 9110, section 9.2.2: a GET may be sent again when its connection was closed under it.
    // Only a reused connection can have been closed before this request, and a new one never comes
    // here twice, so this is done once.
    const bool stale = reused && failure != nullptr &&
                       failure->error == CallError::kConnectionClosed &&
                       !stream.received_anything();
    if (!stale) return attempt;
    connection.reset();
  }
}

std::unique_ptr<Client::Connection> Client::take_idle() {
  for (;;) {
    std::unique_ptr<Connection> connection;
    {
      const std::lock_guard lock(mutex_);
      if (idle_.empty()) return nullptr;
      connection = std::move(idle_.front());
      idle_.pop_front();
    }
    const auto now = Clock::now();
    if (now - connection->idle_since < options_.idle_timeout &&
        now - connection->connected < options_.max_age && connection->usable()) {
      return connection;
    }
  }
}

void Client::keep(std::unique_ptr<Connection> connection) {
  connection->idle_since = Clock::now();
  const std::lock_guard lock(mutex_);
  idle_.push_front(std::move(connection));
}

void Client::close_idle() {
  std::list<std::unique_ptr<Connection>> closed;  // outside of the lock
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  for (auto each = idle_.begin(); each != idle_.end();) {
    const auto next = std::next(each);
    if (now - (*each)->idle_since >= options_.idle_timeout ||
        now - (*each)->connected >= options_.max_age || !(*each)->usable()) {
      closed.splice(closed.end(), idle_, each);
    }
    each = next;
  }
}

std::variant<std::unique_ptr<Client::Connection>, CallFailure> Client::connect(
    Clock::time_point deadline) const {
  const auto found = resolve(url_.host, url_.port, deadline);
  if (found.timed_out) return CallFailure{CallError::kTimeout, "looking the name up"};
  CallFailure failure{CallError::kDnsFailure, found.error};
  auto left = found.addresses.size();
  for (const auto& address : found.addresses) {
    // One address that swallows packets must not use up the time of the others.
    const auto now = Clock::now();
    const auto until = now + (deadline - now) / static_cast<long>(left--);
    const int fd =
        ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      failure = failure_of(errno);
      continue;
    }
    auto connection = std::make_unique<Connection>(fd, url_);
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int error = 0;
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0) {
      error = errno;
    }
    if (error == EINPROGRESS || error == EINTR) {
      if (!wait_for(fd, POLLOUT, until)) {
        failure = {CallError::kTimeout, "connecting"};
        continue;
      }
      socklen_t size = sizeof error;
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0) return connection;
    failure = failure_of(error);
  }
  return failure;
}

}  // namespace common::http
