#include "common/http/client.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "common/http/resolver.hpp"
#include "common/http/response_message.hpp"

namespace common::http {
namespace {

CallFailure failure_of(int error) {
  const auto text = std::generic_category().message(error);
  switch (error) {
    case ECONNREFUSED: return {CallError::kConnectionRefused, {}};
    case ETIMEDOUT: return {CallError::kTimeout, text};  // the kernel gave up before we did
    case ECONNRESET:
    case EPIPE: return {CallError::kConnectionClosed, {}};
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC:  // epoll_ctl(2)
    case EAGAIN: return {CallError::kOverloaded, text};
    default: return {CallError::kUnreachable, text};  // connect(2)
  }
}

/// What connect(2) came to: an errno, or 0. Where nobody listens, the kernel may choose for our end
/// the very port that we connect to, and a socket then meets itself (RFC 9293, section 3.5). Such a
/// one is reset at its end, or it would leave the port in TIME_WAIT, where the peer cannot listen.
int connect_error(int fd) {
  sockaddr_storage ours{};
  sockaddr_storage theirs{};
  socklen_t size = sizeof ours;
  getsockname(fd, reinterpret_cast<sockaddr*>(&ours), &size);
  size = sizeof theirs;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&theirs), &size) == 0 &&
      std::memcmp(&ours, &theirs, size) == 0) {
    const linger reset{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    return ECONNREFUSED;
  }
  int error = 0;
  size = sizeof error;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

}  // namespace

struct Client::Call {
  Clock::time_point deadline;
  std::string request;
  std::function<void(Answer)> done;
};

/// What the calls of one loop share: its idle connections, and the look-up of the name.
class Client::Pool {
 public:
  explicit Pool(Client& client) : client_(client) { idle_.reserve(client.options_.max_calls); }
  Client& client() const { return client_; }

  /// The newest idle connection that can be used, or nullptr.
  Connection* take_idle();
  void keep(Connection& connection) { idle_.push_back(&connection); }
  void forget(Connection& connection) {
    std::erase(idle_, &connection);
    std::erase(waiting_, &connection);
  }

  /// Calls connection.on_resolved(), now or later.
  void resolve(Connection& connection);

 private:
  Client& client_;
  std::vector<Connection*> idle_;     // newest last; never needs memory
  std::vector<Connection*> waiting_;  // for addresses
};

/// One connection to the peer: connects, carries a call, waits for the next one.
class Client::Connection final : public Watcher {
 public:
  Connection(Loop& loop, Pool& pool) : Watcher(loop), pool_(pool) {}

  /// On a connection that is new, or that take_idle() has given.
  void begin(Call call);

  void on_resolved(const Resolution& found);
  void on_events(std::uint32_t events) override;
  void on_deadline() override;

  bool usable() const;
  void retire() {
    pool_.forget(*this);
    close();
  }

 private:
  enum class State { kResolving, kConnecting, kCalling, kIdle };
  struct Target : SocketAddress {
    bool silent = false;  // has been tried, and said nothing
  };

  template <typename Work>
  void guarded(Work work);
  void connect_next();
  void give_up_connecting();
  void send();
  void receive();
  void finish(Answer answer, bool reusable = false);
  void fail(CallError error, const char* detail = "") { finish(CallFailure{error, detail}); }

  Pool& pool_;
  State state_ = State::kResolving;
  Call call_;
  bool reused_ = false;
  Clock::time_point old_at_;       // too old after that
  std::vector<Target> addresses_;  // to be tried, the one that is being tried last
  CallFailure last_failure_;
  std::size_t sent_ = 0;
  std::optional<ResponseParser> parser_;  // of a call that is being sent, or has been
};

// --- a call

/// Does what may throw for want of memory, or of a thread for the look-up.
template <typename Work>
void Client::Connection::guarded(Work work) {
  try {
    work();
  } catch (const std::exception&) {
    fail(CallError::kOverloaded, "no resources");
  }
}

void Client::Connection::begin(Call call) {
  call_ = std::move(call);
  reused_ = state_ == State::kIdle;
  guarded([&] {
    if (reused_) return send();
    set_deadline(call_.deadline);
    pool_.resolve(*this);
  });
}

void Client::Connection::on_resolved(const Resolution& found) {
  guarded([&] {
    state_ = State::kConnecting;
    for (const auto& each : found.addresses) addresses_.push_back({each});
    std::reverse(addresses_.begin(), addresses_.end());
    last_failure_ = {CallError::kDnsFailure, found.error};
    connect_next();
  });
}

void Client::Connection::connect_next() {
  for (; !addresses_.empty(); addresses_.pop_back()) {
    // One that swallows packets must not use up the time of the others. Nor may one lost packet:
    // TCP itself would repeat it after a second (RFC 6298, section 2).
    const auto& address = addresses_.back();
    const auto tries = static_cast<long>(addresses_.size() + (address.silent ? 0 : 1));
    const auto now = Clock::now();
    set_deadline(now + (call_.deadline - now) / tries);
    const int fd =
        ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error = fd < 0 ? errno : 0;
    if (fd >= 0) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      const bool connecting =
          ::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0;
      error = connecting ? errno : connect_error(fd);
      // Only now: a socket that is not connected yet has hung up, for epoll.
      if (!watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) error = errno;
      if (error == 0) return send();
      if (error == EINPROGRESS || error == EINTR) return;
    }
    last_failure_ = failure_of(error);
  }
  finish(std::move(last_failure_));
}

/// Has the address that says nothing tried once more, behind the others.
void Client::Connection::give_up_connecting() {
  last_failure_ = {CallError::kTimeout, "connecting"};
  if (std::exchange(addresses_.back().silent, true)) {
    addresses_.pop_back();
  } else {
    std::rotate(addresses_.begin(), addresses_.end() - 1, addresses_.end());
  }
  connect_next();
}

void Client::Connection::send() {
  if (state_ != State::kCalling) {
    if (state_ == State::kConnecting) old_at_ = Clock::now() + pool_.client().options_.max_age;
    state_ = State::kCalling;
    sent_ = 0;
    parser_.emplace();
    set_deadline(call_.deadline);
  }
  while (sent_ < call_.request.size()) {
    const auto count =
        ::send(fd(), call_.request.data() + sent_, call_.request.size() - sent_, MSG_NOSIGNAL);
    if (count >= 0) {
      sent_ += static_cast<std::size_t>(count);
    } else if (errno != EINTR) {
      return;  // even where it is closed: it may have answered before, and that is looked for
    }
  }
}

/// Takes one piece: between two of them the deadline, and the others, have their turn.
void Client::Connection::receive() {
  thread_local std::array<char, 16'384> buffer;
  const auto count = ::recv(fd(), buffer.data(), buffer.size(), 0);
  if (count < 0 && errno == EAGAIN) return;
  // A reset ends no body: only an orderly close does.
  if (count < 0) return fail(CallError::kConnectionClosed);
  auto parsed = parser_->parse({buffer.data(), static_cast<std::size_t>(count)}, count == 0);
  if (const auto* malformed = std::get_if<MalformedResponse>(&parsed)) {
    return fail(CallError::kBadResponse, malformed->error);
  }
  if (auto* message = std::get_if<ResponseMessage>(&parsed)) {
    if (message->status != 200) {
      return finish(CallFailure{CallError::kBadStatus, {}, message->status});
    }
    const bool whole_request_sent = sent_ == call_.request.size();
    return finish(std::move(message->body), message->reusable && whole_request_sent);
  }
  if (count == 0) return fail(CallError::kConnectionClosed);
  loop().again(*this);
}

/// The end of the call; of the connection too, if it is not reusable.
void Client::Connection::finish(Answer answer, bool reusable) {
  pool_.forget(*this);
  auto call = std::move(call_);
  const auto* failure = std::get_if<CallFailure>(&answer);
  // RFC 9110, section 9.2.2: a GET may be sent again when its connection was closed under it. Only
  // a reused connection can have been closed before this request, and a new one never comes here
  // twice, so this is done once.
  const bool stale = reused_ && failure != nullptr &&
                     failure->error == CallError::kConnectionClosed && !parser_->begun();
  parser_.reset();
  if (reusable) {
    state_ = State::kIdle;
    set_deadline(old_at_);
    pool_.keep(*this);
  } else {
    close();
  }
  if (stale) {
    try {
      return loop().emplace<Connection>(pool_).begin(std::move(call));
    } catch (const std::bad_alloc&) {
      // The answer stands.
    }
  }
  --pool_.client().calls_;
  call.done(std::move(answer));
}

void Client::Connection::on_events(std::uint32_t events) {
  guarded([&] {
    switch (state_) {
      case State::kResolving: break;
      case State::kConnecting: {
        if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return;
        if (const int error = connect_error(fd())) {
          last_failure_ = failure_of(error);
          addresses_.pop_back();
          return connect_next();
        }
        [[fallthrough]];
      }
      case State::kCalling: send(); return receive();
      case State::kIdle:
        if (!usable()) retire();
        break;
    }
  });
}

void Client::Connection::on_deadline() {
  guarded([&] {
    switch (state_) {
      case State::kResolving: return fail(CallError::kTimeout, "looking the name up");
      case State::kConnecting: return give_up_connecting();
      case State::kCalling:
        return fail(CallError::kTimeout, sent_ < call_.request.size() ? "while sending"
                                         : parser_->begun()           ? "the answer is not complete"
                                                                      : "waiting for the answer");
      case State::kIdle: return retire();
    }
  });
}

/// What has arrived, or has been closed, since the last call shows that it cannot be used any more.
bool Client::Connection::usable() const {
  char byte = 0;
  return Clock::now() < old_at_ && ::recv(fd(), &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

// --- the pool

Client::Connection* Client::Pool::take_idle() {
  while (!idle_.empty()) {
    auto* const connection = idle_.back();
    idle_.pop_back();
    if (connection->usable()) return connection;
    connection->retire();
  }
  return nullptr;
}

void Client::Pool::resolve(Connection& connection) {
  auto& resolver = *client_.resolver_;
  if (resolver.literal()) return connection.on_resolved(*resolver.literal());
  waiting_.push_back(&connection);
  resolver.resolve([this, &loop = connection.loop()](const Resolution& found) {
    try {
      loop.post([this, found] {
        for (auto* const each : std::exchange(waiting_, {})) each->on_resolved(found);
      });
    } catch (const std::bad_alloc&) {
      // They wait until their deadline.
    }
  });
}

// --- the client

Client::Client(BaseUrl url, ClientOptions options, std::size_t loops)
    : url_(std::move(url)),
      options_(options),
      fields_("Host: " + url_.authority() +
              "\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"),
      resolver_(std::make_unique<Resolver>(url_.host, url_.port)) {
  for (std::size_t i = 0; i < loops; ++i) pools_.push_back(std::make_unique<Pool>(*this));
}

Client::~Client() = default;

void Client::get(Loop& loop, const std::string& target, const std::string& fields,
                 std::function<void(Answer)> done) {
  if (calls_.fetch_add(1) >= options_.max_calls) {
    --calls_;
    return done(CallFailure{CallError::kOverloaded, {}});
  }
  try {
    Call call{Clock::now() + options_.budget,
              "GET " + target + " HTTP/1.1\r\n" + fields_ + fields + "\r\n", std::move(done)};
    auto& pool = *pools_.at(loop.index());
    auto* connection = pool.take_idle();
    if (connection == nullptr) connection = &loop.emplace<Connection>(pool);
    connection->begin(std::move(call));
  } catch (...) {
    --calls_;
    throw;
  }
}

}  // namespace common::http
