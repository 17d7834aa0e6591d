#include "common/http/server.hpp"

#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <set>
#include <system_error>
#include <utility>

#include "common/http/resolver.hpp"
#include "common/http/server_connection.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

constexpr int kBacklog = 4096;          // capped by net.core.somaxconn
constexpr int kMaxAcceptsPerTurn = 64;  // before the first loop's connections go on
constexpr auto kAcceptPause = 50ms;     // after running out of descriptors or memory
constexpr auto kFullPause = 5ms;        // while max_over_limit connections are being told
constexpr int kPortTries = 16;          // to find one that is free at all addresses

/// In numbers, an IPv6 address with its zone.
BaseUrl numeric(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(address, size, host.data(), host.size(), port.data(), port.size(),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  return {host.data(), static_cast<std::uint16_t>(std::stoi(port.data()))};
}

BaseUrl local_address(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return numeric(reinterpret_cast<const sockaddr*>(&address), size);
}

/// Whether any interface has an address of `family`.
bool machine_has(int family) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return true;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr != nullptr && each->ifa_addr->sa_family == family) return true;
  }
  return false;
}

/// Returns a socket, or an errno below zero.
int listen_on(const addrinfo& address, bool also_v4) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  const int on = 1;
  const int only_v6 = also_v4 ? 0 : 1;
  if (address.ai_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof only_v6);
  }
  // socket(7): SO_REUSEADDR lets a restart bind while old connections are in TIME_WAIT, no more.
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // tcp(7): each accepted socket inherits it. Answers leave in one piece, and none shall wait.
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::bind(fd, address.ai_addr, address.ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0)
    return fd;
  const int error = errno;
  ::close(fd);
  return -error;
}

struct Listening {
  std::vector<int> fds;
  int error = 0;   // where there are none
  BaseUrl failed;  // the address of the error
};

Listening listen_on_all(const addrinfo* found, int port) {
  Listening out;
  std::set<std::string> seen;  // /etc/hosts may name an address twice
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    // sockaddr_in6 has its port at the same place.
    reinterpret_cast<sockaddr_in*>(each->ai_addr)->sin_port =
        htons(static_cast<std::uint16_t>(port));
    const auto address = numeric(each->ai_addr, each->ai_addrlen);
    if (!seen.insert(address.host).second) continue;
    const int fd = listen_on(*each, address.host == "::" || address.host.starts_with("::ffff:"));
    if (fd >= 0) {
      out.fds.push_back(fd);
      port = local_address(fd).port;
      continue;
    }
    out.error = -fd;
    out.failed = address;
    if (fd == -EAFNOSUPPORT || (fd == -EADDRNOTAVAIL && !machine_has(each->ai_family))) continue;
    for (const int open : out.fds) ::close(open);
    out.fds.clear();
    break;
  }
  return out;
}

std::vector<int> listen_at(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found)) {
    throw BindError(look_up_error(error),
                    BaseUrl{host, static_cast<std::uint16_t>(port)}.address());
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  for (int tries = 1;; ++tries) {
    auto listening = listen_on_all(found, port);
    if (!listening.fds.empty()) return listening.fds;
    if (listening.failed.host == "::" && listening.error == EAFNOSUPPORT) {
      return listen_at("0.0.0.0", port);
    }
    // A port that the kernel has chosen for one address may be taken at another.
    if (port == 0 && listening.error == EADDRINUSE && tries < kPortTries) continue;
    throw BindError(listening.error, std::generic_category(), listening.failed.address());
  }
}

int take_over(int listener) {
  const auto is = [listener](int option, int wanted) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(listener, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
  };
  if (!is(SO_ACCEPTCONN, 1) || is(SO_DOMAIN, AF_UNIX)) {
    throw BindError(EINVAL, std::generic_category(),
                    "the service manager's socket: not a TCP socket that listens");
  }
  fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
  fcntl(listener, F_SETFD, FD_CLOEXEC);
  const int on = 1;
  setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return listener;
}

}  // namespace

/// Accepts at one address, for all loops.
class Server::Listener final : public Watcher {
 public:
  Listener(Loop& loop, Server& server, Port& port, int fd)
      : Watcher(loop), server_(server), port_(port) {
    if (!watch(fd, EPOLLIN | EPOLLET)) {
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
  }

  void on_events(std::uint32_t) override {
    for (int i = 0; i < kMaxAcceptsPerTurn; ++i) {
      if (!accept_one()) return;
    }
    run_again_later();
  }
  void on_deadline() override { on_events(0); }

  /// Accepts what has connected before, and closes.
  void finish() {
    while (accept_one()) {
    }
    close();
  }

 private:
  bool accept_one();

  Server& server_;
  Port& port_;
};

/// Returns whether there may be another one now.
bool Server::Listener::accept_one() {
  const bool over_limit = port_.served >= port_.max_connections;
  if (over_limit && server_.over_limit_ >= server_.options_.max_over_limit) {
    set_deadline(Clock::now() + kFullPause);  // the next ones wait in the backlog
    return false;
  }
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  const int fd =
      accept4(this->fd(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    server_.add_connection(fd, port_, over_limit,
                           numeric(reinterpret_cast<const sockaddr*>(&peer), size));
    return true;
  }
  if (errno == EINTR || errno == ECONNABORTED) return true;
  // accept(2): besides EAGAIN there are lasting ones (EMFILE, ENFILE, ENOBUFS, ENOMEM) and errors
  // of a connection that is gone. None may end the service, and none may spin.
  if (errno != EAGAIN) set_deadline(Clock::now() + kAcceptPause);
  return false;
}

Server::~Server() {
  stop(0ms);
  loops_.clear();  // their connections use this
  for (const auto& [fd, port] : bound_) ::close(fd);
}

Server& Server::Get(const std::string& path, ExchangeHandler handler, Ports ports) {
  routes_[path] = {std::move(handler), ports};
  return *this;
}

Server& Server::Get(const std::string& path, Handler handler, Ports ports) {
  return Get(
      path,
      [handler = std::move(handler)](const httplib::Request& request, httplib::Response& response,
                                     Exchange&) { handler(request, response); },
      ports);
}

Server::Addresses Server::bind(int inherited) {
  Addresses addresses;
  const auto add = [this](const std::vector<int>& fds, Port& port, std::vector<BaseUrl>& out) {
    for (const int fd : fds) {
      bound_.emplace_back(fd, &port);
      out.push_back(local_address(fd));
    }
  };
  add(inherited >= 0 ? std::vector{take_over(inherited)} : listen_at(options_.host, options_.port),
      main_, addresses.main);
  if (options_.admin_port) {
    add(listen_at(options_.host, *options_.admin_port), admin_, addresses.admin);
  }
  return addresses;
}

void Server::start() {
  listening_ = true;
  for (const auto& [fd, port] : std::exchange(bound_, {})) {
    listeners_.push_back(&loops_.front()->emplace<Listener>(*this, *port, fd));
  }
  try {
    // The one that accepts is the last: a client that is answered has met a whole server.
    for (auto loop = loops_.rbegin(); loop != loops_.rend(); ++loop)
      threads_.emplace_back([&loop = *loop] { loop->run(); });
  } catch (const std::system_error&) {
    end_threads();
    throw;
  }
}

bool Server::all_loops_responsive() {
  const bool all = !responsive_loops_ || *responsive_loops_ == loops_.size();
  responsive_loops_ = std::make_shared<std::atomic<std::size_t>>(0);
  for (const auto& loop : loops_) loop->post([count = responsive_loops_] { ++*count; });
  return all;
}

void Server::begin_drain() { phase_ = Phase::kDraining; }

bool Server::stop(std::chrono::milliseconds time) {
  if (threads_.empty()) return true;
  loops_.front()->post([this] {
    for (auto* const listener : std::exchange(listeners_, {})) listener->finish();
    // Only now may an answer say "Connection: close": the client may connect again at once, and
    // must not meet a listener that is about to close.
    phase_ = Phase::kStopping;
    for (const auto& loop : loops_) loop->post([&loop] { loop->drain(); });
    const std::lock_guard lock(mutex_);
    listening_ = false;
    all_closed_.notify_all();
  });
  {
    std::unique_lock lock(mutex_);
    const bool finished =
        all_closed_.wait_for(lock, time, [this] { return !listening_ && open_connections_ == 0; });
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

/// Gives an accepted socket to a loop.
void Server::add_connection(int fd, Port& port, bool over_limit, BaseUrl peer) {
  ++open_connections_;
  ++(over_limit ? over_limit_ : port.served);
  auto& loop = *loops_[next_loop_++ % loops_.size()];
  loop.post([this, &loop, &port, fd, over_limit, peer = std::move(peer)] {
    loop.emplace<ServerConnection>(*this, port, over_limit, peer).start(fd);
  });
}

void Server::connection_closed(Port& port, bool over_limit) {
  --(over_limit ? over_limit_ : port.served);
  const std::lock_guard lock(mutex_);
  if (--open_connections_ == 0) all_closed_.notify_all();
}

}  // namespace common::http
