#include "common/http/server.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "common/http/connection.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

constexpr int kBacklog = 4096;          // capped by net.core.somaxconn
constexpr int kMaxAcceptsPerTurn = 64;  // before the first loop's connections have their turn
constexpr auto kAcceptPause = 50ms;     // after running out of descriptors or memory
constexpr auto kFullPause = 5ms;  // while as many as may be are being told that there is no place

int listen_at(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found)) {
    throw std::system_error(EADDRNOTAVAIL, std::generic_category(), gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);

  int error = EADDRNOTAVAIL;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    const int fd = socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    // socket(7): SO_REUSEADDR lets a restart bind while old connections are in TIME_WAIT, and no
    // more than that.
    const int on = 1;
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        ::bind(fd, each->ai_addr, each->ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) {
      return fd;
    }
    error = errno;
    if (fd >= 0) ::close(fd);
  }
  throw std::system_error(error, std::generic_category());
}

int take_over(int listener) {
  const auto is = [listener](int option, int wanted) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(listener, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
  };
  if (!is(SO_ACCEPTCONN, 1) || is(SO_DOMAIN, AF_UNIX)) {
    throw std::system_error(EINVAL, std::generic_category(), "not a TCP socket that listens");
  }
  fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
  fcntl(listener, F_SETFD, FD_CLOEXEC);
  return listener;
}

}  // namespace

void answer_error(httplib::Response& response, int status, std::string_view sentence) {
  response.status = status;
  response.set_content("{\"error\":\"" + std::string(sentence) + "\"}\n", "application/json");
}

/// Accepts for all loops.
class Server::Listener final : public Watcher {
 public:
  Listener(Loop& loop, Server& server, int fd) : Watcher(loop), server_(server) {
    if (!watch(fd, EPOLLIN | EPOLLET)) {
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
  }

  void on_events(std::uint32_t) override {
    for (int i = 0; i < kMaxAcceptsPerTurn; ++i) {
      if (!accept_one()) return;
    }
    loop().again(*this);
  }
  void on_deadline() override { on_events(0); }

  /// Takes over all that the kernel has accepted before it ends.
  void finish() {
    while (accept_one()) {
    }
    close();
    server_.listener_closed();
  }

 private:
  bool accept_one();

  Server& server_;
};

/// Returns whether there may be another one now.
bool Server::Listener::accept_one() {
  const bool full = server_.full();
  if (full && server_.surplus_connections_ >= server_.options_.max_surplus) {
    set_deadline(Clock::now() + kFullPause);  // the next ones wait in the backlog
    return false;
  }
  const int fd = accept4(this->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    server_.add_connection(fd, full);
    return true;
  }
  if (errno == EINTR || errno == ECONNABORTED) return true;
  // accept(2): besides EAGAIN there are lasting ones (EMFILE, ENFILE, ENOBUFS, ENOMEM) and errors
  // of a connection that is gone. None may end the service, and none may spin.
  if (errno != EAGAIN) set_deadline(Clock::now() + kAcceptPause);
  return false;
}

Server::Server(ServerOptions options) : options_(std::move(options)) {
  for (std::size_t i = 0; i < options_.threads; ++i) loops_.push_back(std::make_unique<Loop>(i));
}

Server::~Server() {
  stop(0ms);
  loops_.clear();  // their connections still tell of their end
  if (bound_ >= 0) ::close(bound_);
}

Server& Server::Get(const std::string& path, Handler handler) {
  return Get(path, [handler = std::move(handler)](PendingExchange& exchange) {
    exchange.answer([&] { handler(exchange.request, exchange.response); });
  });
}

Server& Server::Get(const std::string& path, AsyncHandler handler) {
  routes_[path] = std::move(handler);
  return *this;
}

BaseUrl Server::bind(int inherited) {
  bound_ = inherited >= 0 ? take_over(inherited) : listen_at(options_.host, options_.port);
  // tcp(7): each accepted socket inherits it. Answers leave in one piece, and none shall wait.
  const int on = 1;
  setsockopt(bound_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getsockname(bound_, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(),
                  port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    throw std::system_error(errno, std::generic_category());
  }
  return {host.data(), static_cast<std::uint16_t>(std::stoi(port.data()))};
}

void Server::start() {
  listener_ = &loops_.front()->emplace<Listener>(*this, std::exchange(bound_, -1));
  try {
    for (const auto& loop : loops_) threads_.emplace_back([&loop] { loop->run(); });
  } catch (const std::system_error&) {
    end_threads();
    throw;
  }
}

bool Server::turned() {
  const bool all = turned_ == nullptr || *turned_ == loops_.size();
  turned_ = nullptr;
  try {
    const auto turned = std::make_shared<std::atomic<std::size_t>>(0);
    for (const auto& loop : loops_) loop->post([turned] { ++*turned; });
    turned_ = turned;
  } catch (const std::bad_alloc&) {
    // The next call says yes: who has no memory does not hang.
  }
  return all;
}

bool Server::stop(std::chrono::milliseconds time) {
  if (threads_.empty()) return true;
  draining_ = true;
  stopping_ = true;
  // Last connections are dealt out before any are closed: who is closed may come again at once, and
  // must find nobody then, not somebody who does not answer.
  loops_.front()->post([this] {
    listener_->finish();
    for (const auto& loop : loops_) loop->post([&loop] { loop->drain(); });
  });
  {
    std::unique_lock lock(mutex_);
    const bool finished =
        all_closed_.wait_for(lock, time, [this] { return !listener_ && open_connections_ == 0; });
    if (!finished) return false;
  }
  end_threads();
  return true;
}

void Server::end_threads() {
  for (const auto& loop : loops_) loop->stop();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

bool Server::full() {
  const std::lock_guard lock(mutex_);  // or one that closes might be seen by halves
  return open_connections_ - surplus_connections_ >= options_.max_connections;
}

/// Deals an accepted socket out.
void Server::add_connection(int fd, bool surplus) {
  ++open_connections_;
  surplus_connections_ += surplus ? 1 : 0;
  const auto give_up = [this, fd, surplus] {
    ::close(fd);
    connection_closed(surplus);
  };
  auto& loop = *loops_[next_loop_++ % loops_.size()];
  try {
    loop.post([this, &loop, fd, surplus, give_up] {
      try {
        loop.emplace<Connection>(*this, surplus).start(fd);
      } catch (const std::bad_alloc&) {
        give_up();
      }
    });
  } catch (const std::bad_alloc&) {
    give_up();
  }
}

void Server::connection_closed(bool surplus) {
  const std::lock_guard lock(mutex_);
  surplus_connections_ -= surplus ? 1 : 0;
  if (--open_connections_ == 0) all_closed_.notify_all();
}

void Server::listener_closed() {
  const std::lock_guard lock(mutex_);
  listener_ = nullptr;
  all_closed_.notify_all();
}

}  // namespace common::http
