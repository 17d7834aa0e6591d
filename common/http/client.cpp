#include "common/http/client.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <system_error>
#include <utility>

#include "common/http/fiber.hpp"
#include "common/http/response_head.hpp"

namespace common::http {
namespace {

// Chunks may be larger than what they carry. This bounds an answer, head included.
constexpr std::size_t kMaxReceived = 8 * kMaxResponseBody;
constexpr std::chrono::milliseconds kLookUpPause{10};

/// Whether this machine has an address to reach `peer` from: connecting UDP sends nothing.
bool has_route(const SocketAddress& peer) {
  const int fd = ::socket(peer.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool connected =
      fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&peer.storage), peer.size) == 0;
  if (fd >= 0) ::close(fd);
  return connected;
}

CallFailure failure_of(int error, const SocketAddress& peer) {
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
    case EADDRNOTAVAIL:  // no local port is left, or no local address
      if (has_route(peer)) return {CallError::kOverloaded, "no local port is left"};
      [[fallthrough]];
    default: return {CallError::kUnreachable, text};  // connect(2)
  }
}

/// Whether a look-up that is under way may help where all addresses have come to `failure`.
/// `early`: over half of the budget is left.
bool better_may_come(const Resolution& found, CallError failure, bool early) {
  switch (failure) {
    case CallError::kOverloaded: return false;
    case CallError::kUnreachable: return !found.complete;  // the other family may have a route
    default: return !found.current && early;  // they may be old; but the name server may hang
  }
}

/// What connect(2) came to: an errno, or 0. Where nobody listens, the kernel may choose for our end
/// the very port that we connect to, and the socket is connected to itself (RFC 9293, section 3.5).
/// Such a one is reset, or it would leave the port in TIME_WAIT, where the peer cannot listen.
int error_of_connect(int fd) {
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

/// A connection to the peer: a fiber has it for a call, or it is idle in a pool.
class Client::UpstreamConnection final : public Watcher {
 public:
  /// Begins to connect.
  UpstreamConnection(Loop& loop, Pool& pool, std::chrono::milliseconds max_age,
                     const SocketAddress& address);
  const SocketAddress& address() const { return address_; }
  /// What that came to: an errno, 0, or EINPROGRESS while it is under way.
  int connect_error() const { return connect_error_; }
  /// Who is resumed when something happens.
  void set_waiting(Fiber* fiber) { waiting_ = fiber; }

  /// Sends all of `text`. Returns an errno, or 0; ETIMEDOUT at the deadline.
  int send(std::string_view text, Clock::time_point deadline);

  /// Adds what arrives next to `in`. Returns an errno, or 0; `ended`: the peer has closed its side.
  int receive(std::string& in, bool& ended, Clock::time_point deadline);

  bool usable() const;
  bool reused() const { return reused_; }
  void take() { reused_ = true; }
  /// Back into the pool, until it is too old.
  void keep() {
    set_deadline(connected_at_ + max_age_);
    pool_.push_back(this);
  }
  void retire() {
    std::erase(pool_, this);
    close();
  }

  void on_events(std::uint32_t events) override;
  void on_deadline() override;

 private:
  bool wait(Clock::time_point deadline);

  Pool& pool_;
  const std::chrono::milliseconds max_age_;
  const SocketAddress address_;
  int connect_error_ = EINPROGRESS;
  Fiber* waiting_ = nullptr;
  bool expired_ = false;   // the deadline of the wait has passed
  bool readable_ = false;  // recv(2) may have something
  bool hung_up_ = false;   // the peer's end, or an error, is still to be received
  bool reused_ = false;
  Clock::time_point connected_at_;
};

Client::UpstreamConnection::UpstreamConnection(Loop& loop, Pool& pool,
                                               std::chrono::milliseconds max_age,
                                               const SocketAddress& address)
    : Watcher(loop),
      pool_(pool),
      max_age_(max_age),
      address_(address),
      connected_at_(Clock::now()) {
  const int made =
      ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (made < 0) {
    connect_error_ = errno;
    return;
  }
  const int on = 1;
  setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const bool connected =
      ::connect(made, reinterpret_cast<const sockaddr*>(&address.storage), address.size) == 0;
  const int error = connected ? error_of_connect(made) : errno;
  if (error != EINTR) connect_error_ = error;  // interrupted, it goes on: connect(2)
  // Only now: for epoll, a socket that is not connected yet has hung up.
  if (!watch(made, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) connect_error_ = errno;
}

/// Returns whether something has happened before the deadline.
bool Client::UpstreamConnection::wait(Clock::time_point deadline) {
  set_deadline(deadline);
  expired_ = false;
  waiting_ = &Fiber::current();
  Fiber::suspend();
  waiting_ = nullptr;
  return !expired_;
}

void Client::UpstreamConnection::on_events(std::uint32_t events) {
  hung_up_ = hung_up_ || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  readable_ = readable_ || hung_up_ || (events & EPOLLIN) != 0;
  if (connect_error_ == EINPROGRESS) {
    connect_error_ = error_of_connect(fd());
    connected_at_ = Clock::now();
  }
  if (waiting_ != nullptr) return waiting_->resume();
  const bool idle = std::ranges::find(pool_, this) != pool_.end();
  if (idle && !usable()) retire();
}

void Client::UpstreamConnection::on_deadline() {
  if (waiting_ == nullptr) return retire();
  expired_ = true;
  waiting_->resume();
}

int Client::UpstreamConnection::send(std::string_view text, Clock::time_point deadline) {
  while (!text.empty()) {
    const auto count = ::send(fd(), text.data(), text.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      if (!wait(deadline)) return ETIMEDOUT;
    } else if (errno != EINTR) {
      return 0;  // closed; but the peer may have answered before, and receive() will tell
    }
  }
  return 0;
}

int Client::UpstreamConnection::receive(std::string& in, bool& ended, Clock::time_point deadline) {
  thread_local std::array<char, 16'384> buffer;
  for (;;) {
    if (Clock::now() >= deadline || (!readable_ && !wait(deadline))) return ETIMEDOUT;
    const auto count = ::recv(fd(), buffer.data(), buffer.size(), 0);
    if (count >= 0) {
      const auto size = static_cast<std::size_t>(count);
      in.append(buffer.data(), size);
      ended = count == 0;
      // epoll(7): behind a short read there is nothing, but perhaps the end of the stream.
      readable_ = hung_up_ || size == buffer.size();
      return 0;
    }
    if (errno != EAGAIN && errno != EINTR) return errno;
    readable_ = errno == EINTR;
  }
}

/// It is not too old; since the last call nothing has arrived, nor has it been closed.
bool Client::UpstreamConnection::usable() const {
  char byte = 0;
  return Clock::now() < connected_at_ + max_age_ && ::recv(fd(), &byte, 1, MSG_PEEK) < 0 &&
         errno == EAGAIN;
}

/// One request and its answer on a connection, which is closed at the end unless it can be kept.
class Client::Call final : private BufferedStream {
 public:
  Call(UpstreamConnection& connection, Clock::time_point deadline)
      : connection_(connection), deadline_(deadline) {}
  ~Call() override { reusable_ ? connection_.keep() : connection_.retire(); }

  Answer run(ClientEngine& engine, httplib::Request& request) {
    httplib::Response response;
    const bool complete = engine.process(*this, request, response);
    if (failure_) return std::move(*failure_);
    if (head_.status != 200) return CallFailure{CallError::kBadStatus, {}, head_.status};
    if (!complete) return CallFailure{CallError::kBadResponse, "cannot be read"};
    // Bytes behind the answer belong to no request: nobody may take them for the next answer.
    reusable_ = head_.keep_alive && in_.empty() && !ended_;
    return std::move(response.body);
  }

  /// The peer had closed the connection before the request came.
  bool stale() const {
    return connection_.reused() && received_ == 0 && failure_ &&
           failure_->error == CallError::kConnectionClosed;
  }

 private:
  // BufferedStream
  ssize_t write(const char* data, size_t size) override {
    request_.append(data, size);
    return static_cast<ssize_t>(size);
  }

  ssize_t fill() override {
    const bool filled = head_.size == 0 ? fill_head() : fill_body();
    if (!filled) return -1;
    unread_ = piece_;
    return static_cast<ssize_t>(piece_.size());
  }

  /// Has cpp-httplib see of the head what has been checked: the status and the length.
  bool fill_head() {
    if (connection_.send(request_, deadline_) != 0) {
      return fail(CallError::kTimeout, "while sending");
    }
    for (;;) {
      if (!receive()) return false;
      const auto parsed = parse_response_head(in_);
      if (const auto* malformed = std::get_if<MalformedResponse>(&parsed)) {
        return fail(CallError::kBadResponse, malformed->error);
      }
      if (const auto* head = std::get_if<ResponseHead>(&parsed)) {
        head_ = *head;
        break;
      }
      if (ended_) return fail(CallError::kConnectionClosed);
    }
    in_.erase(0, head_.size);
    if (head_.length.value_or(0) > kMaxResponseBody && head_.status == 200) return too_large();
    piece_ = "HTTP/1.1 " + std::to_string(head_.status) + "\r\n";
    if (head_.length) piece_ += "Content-Length: " + std::to_string(*head_.length) + "\r\n";
    piece_ += "\r\n";
    return true;
  }

  /// An empty piece is the end of the body.
  bool fill_body() {
    for (;;) {
      piece_.clear();
      if (head_.chunked) {
        if (const char* error = chunks_.decode(in_, piece_)) {
          return fail(CallError::kBadResponse, error);
        }
        if (!piece_.empty() || chunks_.complete()) break;
      } else {
        const auto left = head_.length.value_or(kNoLimit) - body_;
        piece_ = in_.substr(0, left);
        in_.erase(0, piece_.size());
        if (!piece_.empty() || left == 0 || (ended_ && !head_.length)) break;
      }
      if (ended_) return fail(CallError::kConnectionClosed);
      if (!receive()) return false;
    }
    body_ += piece_.size();
    return body_ <= kMaxResponseBody || too_large();
  }

  bool receive() {
    const auto before = in_.size();
    const int error = connection_.receive(in_, ended_, deadline_);
    received_ += in_.size() - before;
    if (error == ETIMEDOUT) {
      return fail(CallError::kTimeout,
                  received_ > 0 ? "the answer is not complete" : "waiting for the answer");
    }
    // A reset ends no body: only an orderly close does.
    if (error != 0) return fail(CallError::kConnectionClosed);
    return received_ <= kMaxReceived || too_large();
  }

  bool too_large() { return fail(CallError::kBadResponse, "is larger than 64 KiB"); }
  bool fail(CallError error, const char* detail = "") {
    failure_ = {error, detail};
    return false;
  }

  static constexpr auto kNoLimit = std::string::npos;

  UpstreamConnection& connection_;
  const Clock::time_point deadline_;
  std::string request_;
  std::string in_;     // received, not yet read
  std::string piece_;  // what cpp-httplib reads now
  std::size_t received_ = 0;
  std::size_t body_ = 0;  // bytes of it that cpp-httplib has been given
  ResponseHead head_;
  ChunkedBody chunks_;
  bool ended_ = false;  // the peer has closed its side
  bool reusable_ = false;
  std::optional<CallFailure> failure_;
};

Client::Client(BaseUrl url, ClientOptions options, std::size_t loops)
    : url_(std::move(url)), options_(options), pools_(loops), resolver_(url_.host, url_.port) {}

Client::~Client() = default;

Client::Answer Client::get(const std::string& target, httplib::Headers headers) {
  struct Counted {
    std::atomic<std::size_t>& calls;
    const std::size_t before = calls.fetch_add(1);
    ~Counted() { --calls; }
  };
  const Counted counted{calls_};
  if (counted.before >= options_.max_calls) return CallFailure{CallError::kOverloaded, {}};

  httplib::Request request;
  request.method = "GET";
  request.path = target;
  request.headers = std::move(headers);
  request.headers.emplace("Host", url_.authority());
  request.headers.emplace("Accept", "application/json");
  request.headers.emplace("Accept-Encoding", "identity");
  // Of other answers only the head is read.
  request.response_handler = [](const httplib::Response& response) {
    return response.status == 200;
  };
  return get_in_time(request, Clock::now() + options_.budget);
}

Client::Answer Client::get_in_time(httplib::Request& request, Clock::time_point deadline) {
  auto& pool = pools_.at(Fiber::current().loop().index());
  if (auto* const kept = take_idle(pool)) {
    Call call(*kept, deadline);
    auto answer = call.run(engine_, request);
    // RFC 9110, section 9.2.2: a GET may be sent again when its connection was closed under it.
    if (!call.stale()) return answer;
  }
  const auto connected = connect(pool, deadline);
  if (const auto* failure = std::get_if<CallFailure>(&connected)) return *failure;
  return Call(*std::get<UpstreamConnection*>(connected), deadline).run(engine_, request);
}

/// The newest idle connection that can be used, or nullptr.
Client::UpstreamConnection* Client::take_idle(Pool& pool) {
  while (!pool.empty()) {
    auto* const connection = pool.back();
    pool.pop_back();
    connection->take();
    if (connection->usable()) return connection;
    connection->retire();
  }
  return nullptr;
}

/// The connections that a call has begun to make. Closes those that are left.
struct Client::Attempts : std::vector<UpstreamConnection*> {
  ~Attempts() {
    for (auto* const each : *this) each->retire();
  }
  /// Returns whether one has come to an end before `time`.
  bool wait_until(Clock::time_point time) const {
    for (auto* const each : *this) each->set_waiting(&Fiber::current());
    const bool ended = Fiber::suspend_until(time);
    for (auto* const each : *this) each->set_waiting(nullptr);
    return ended;
  }
  /// Takes one out that has come to an end; nullptr where there is none.
  UpstreamConnection* take_ended() {
    const auto found = std::ranges::find_if(
        *this, [](const auto* each) { return each->connect_error() != EINPROGRESS; });
    if (found == end()) return nullptr;
    auto* const ended = *found;
    erase(found);
    return ended;
  }
  void give_up(const SocketAddress& address) {
    const auto given_up = std::partition(
        begin(), end(), [&](const auto* each) { return each->address() != address; });
    std::for_each(given_up, end(), [](auto* each) { each->retire(); });
    erase(given_up, end());
  }
};

/// As in RFC 8305, section 5: where an address does not answer, the next one is tried beside it.
/// Each is tried twice, for a lost packet must not cost the call: TCP itself would send it again
/// after a second (RFC 6298, section 2).
std::variant<Client::UpstreamConnection*, CallFailure> Client::connect(Pool& pool,
                                                                       Clock::time_point deadline) {
  struct Candidate {
    SocketAddress address;
    int tries = 2;  // that are left
  };
  auto found = resolve(deadline);
  if (!found) return CallFailure{CallError::kTimeout, "looking the name up"};
  if (found->addresses.empty()) {
    return CallFailure{found->overloaded ? CallError::kOverloaded : CallError::kDnsFailure,
                       found->error};
  }
  std::vector<Candidate> candidates;
  Attempts attempts;
  std::optional<CallFailure> failure;  // what those that have ended came to
  auto next_try = Clock::now();
  for (;;) {
    for (const auto& address : found->addresses) {
      if (std::ranges::find(candidates, address, &Candidate::address) == candidates.end()) {
        candidates.push_back({address});
      }
    }
    while (auto* const ended = attempts.take_ended()) {
      const int error = ended->connect_error();
      if (error == 0) return ended;
      const auto latest = failure_of(error, ended->address());
      std::ranges::find(candidates, ended->address(), &Candidate::address)->tries = 0;
      const bool unreachable = latest.error == CallError::kUnreachable;
      // The packet of a try before has been lost, then.
      if (unreachable || error == ECONNREFUSED) attempts.give_up(ended->address());
      ended->retire();
      // Addresses without a route come last, and must not hide what the others came to.
      if (!failure || !unreachable) failure = latest;
    }
    const auto now = Clock::now();
    if (now >= deadline) break;
    const auto next = std::ranges::max_element(candidates, {}, &Candidate::tries);  // the first one
    const bool has_next = next != candidates.end() && next->tries > 0;
    if (has_next && (attempts.empty() || now >= next_try)) {
      const auto left = std::ranges::count_if(candidates, std::identity(), &Candidate::tries) +
                        (next->tries == 2 ? 1 : 0) + (found->complete ? 0 : 1);
      // Many addresses make not more than ten connections at a time.
      next_try = now + std::max<Clock::duration>((deadline - now) / left, options_.budget / 10);
      --next->tries;
      attempts.push_back(&Fiber::current().loop().emplace<UpstreamConnection>(
          pool, options_.max_age, next->address));
      continue;
    }
    const bool early = now < deadline - options_.budget / 2;
    if (attempts.empty() && !better_may_come(*found, failure->error, early)) break;
    const auto until = has_next ? next_try : found->complete ? deadline : now + kLookUpPause;
    if (!attempts.wait_until(std::min(until, deadline)) && !found->complete) {
      found = resolver_.latest(*found);
    }
  }
  if (!attempts.empty() || !failure) return CallFailure{CallError::kTimeout, "connecting"};
  return *std::move(failure);
}

/// Nothing at the deadline.
std::optional<Resolution> Client::resolve(Clock::time_point deadline) {
  if (resolver_.literal()) return resolver_.literal();
  struct Waiting {
    Fiber* fiber;  // nullptr when it has given up
    std::optional<Resolution> found;
  };
  auto waiting = std::make_shared<Waiting>(Waiting{&Fiber::current(), {}});
  resolver_.resolve([waiting, &loop = Fiber::current().loop()](const Resolution& found) {
    loop.post([waiting, found] {
      if (waiting->fiber == nullptr) return;
      waiting->found = found;
      waiting->fiber->resume();
    });
  });
  Fiber::suspend_until(deadline);
  waiting->fiber = nullptr;
  return std::move(waiting->found);
}

}  // namespace common::http
