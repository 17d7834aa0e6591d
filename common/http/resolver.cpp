#include "common/http/resolver.hpp"

#include <ares.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

namespace common::http {
namespace {

constexpr std::chrono::milliseconds kStopInterval{50};  // how often a look-up asks whether to stop

struct Lookup {
  Resolution result;
  bool done = false;
};

// What c-ares would do itself (TCP_NODELAY aside), but for one thing: it sends the questions for
// IPv4 and IPv6 over one socket, and a send that hears what became of the question before has not
// sent its own. With that made good, whoever waits hears of each, be it "port unreachable", and
// nobody waits for ever.
constexpr ares_socket_functions kSocketFunctions{
    [](int domain, int type, int protocol, void*) {
      return ::socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    },
    [](ares_socket_t fd, void*) { return ::close(fd); },
    [](ares_socket_t fd, const sockaddr* address, ares_socklen_t size, void*) {
      return ::connect(fd, address, size);
    },
    [](ares_socket_t fd, void* buffer, size_t size, int flags, sockaddr* from,
       ares_socklen_t* from_size,
       void*) -> ares_ssize_t { return ::recvfrom(fd, buffer, size, flags, from, from_size); },
    [](ares_socket_t fd, const iovec* parts, int count, void*) -> ares_ssize_t {
      const auto sent = ::writev(fd, parts, count);
      return sent < 0 && errno == ECONNREFUSED ? ::writev(fd, parts, count) : sent;
    }};

// Called for an answer, a failure, and when the channel is destroyed with the look-up under way.
void on_answer(void* argument, int status, int, ares_addrinfo* found) {
  auto& lookup = *static_cast<Lookup*>(argument);
  lookup.done = true;
  lookup.result.timed_out = status == ARES_EDESTRUCTION;
  const std::unique_ptr<ares_addrinfo, decltype(&ares_freeaddrinfo)> owner(found,
                                                                           &ares_freeaddrinfo);
  try {
    if (status != ARES_SUCCESS) {
      lookup.result.error = ares_strerror(status);
      return;
    }
    for (const ares_addrinfo_node* node = found->nodes; node != nullptr; node = node->ai_next) {
      auto& address = lookup.result.addresses.emplace_back();
      address.size = static_cast<socklen_t>(node->ai_addrlen);
      std::memcpy(&address.storage, node->ai_addr, address.size);
    }
  } catch (const std::bad_alloc&) {
    lookup.result = {{}, false, "no memory"};  // nothing may be thrown through c-ares
  }
}

// One round of waiting for the name servers, no longer than c-ares or the deadline allow.
void wait_for_servers(ares_channel channel, Clock::time_point deadline) {
  std::array<ares_socket_t, ARES_GETSOCK_MAXNUM> sockets{};
  const int wanted = ares_getsock(channel, sockets.data(), ARES_GETSOCK_MAXNUM);
  std::array<pollfd, ARES_GETSOCK_MAXNUM> polled{};
  nfds_t count = 0;
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    const int events = (ARES_GETSOCK_READABLE(wanted, i) ? POLLIN : 0) |
                       (ARES_GETSOCK_WRITABLE(wanted, i) ? POLLOUT : 0);
    if (events != 0) polled[count++] = {sockets[i], static_cast<short>(events), 0};
  }
  const auto left = std::max<std::int64_t>(
      0, std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count());
  timeval limit{static_cast<time_t>(left / 1000), static_cast<suseconds_t>(left % 1000 * 1000)};
  timeval buffer{};
  const timeval* next = ares_timeout(channel, &limit, &buffer);
  const int ready =
      poll(polled.data(), count, static_cast<int>(next->tv_sec * 1000 + next->tv_usec / 1000 + 1));
  if (ready <= 0) ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // time-outs only
  for (nfds_t i = 0; i < count && ready > 0; ++i) {
    const auto& each = polled[i];
    if (each.revents == 0) continue;
    ares_process_fd(channel, each.revents & ~POLLOUT ? each.fd : ARES_SOCKET_BAD,
                    each.revents & POLLOUT ? each.fd : ARES_SOCKET_BAD);
  }
}

}  // namespace

std::optional<Resolution> resolve_literal(const std::string& host, std::uint16_t port) {
  SocketAddress address;
  auto& v4 = reinterpret_cast<sockaddr_in&>(address.storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    address.size = sizeof v4;
  } else if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    address.size = sizeof v6;
  } else {
    return std::nullopt;
  }
  return Resolution{{address}, false, {}};
}

Resolution resolve(const std::string& host, std::uint16_t port, Clock::time_point deadline,
                   const std::string& servers, const std::stop_token& stop) {
  Lookup lookup;
  static const int library = ares_library_init(ARES_LIB_INIT_ALL);
  ares_channel channel = nullptr;
  ares_options options{};
  // A question is asked again, of the next server if there is one, after a sixth of the time and
  // after two more, for c-ares doubles it. It would give up after another four: too late for us.
  options.timeout =
      std::max(1, static_cast<int>((deadline - Clock::now()) / std::chrono::milliseconds(6)) + 1);
  options.tries = 3;
  int status = library != ARES_SUCCESS
                   ? library
                   : ares_init_options(&channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES);
  if (status == ARES_SUCCESS && !servers.empty()) {
    status = ares_set_servers_ports_csv(channel, servers.c_str());
  }
  const auto destroy = [](ares_channel each) { ares_destroy(each); };
  std::unique_ptr<std::remove_pointer_t<ares_channel>, decltype(destroy)> owner(channel, destroy);
  if (status != ARES_SUCCESS) {
    lookup.result.error = ares_strerror(status);
    return lookup.result;
  }
  ares_set_socket_functions(channel, &kSocketFunctions, nullptr);

  ares_addrinfo_hints hints{};
  hints.ai_flags = ARES_AI_NUMERICSERV;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  ares_getaddrinfo(channel, host.c_str(), std::to_string(port).c_str(), &hints, on_answer, &lookup);
  for (auto now = Clock::now(); !lookup.done && now < deadline && !stop.stop_requested();
       now = Clock::now()) {
    wait_for_servers(channel, std::min(deadline, now + kStopInterval));
  }
  if (!lookup.done) owner.reset();  // ends in on_answer
  return lookup.result;
}

}  // namespace common::http
