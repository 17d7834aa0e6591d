#include "support/posix.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <random>

namespace tests {

sockaddr_in ipv4_address(const std::string& host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    throw std::system_error(EINVAL, std::generic_category(), host);
  }
  return address;
}

BoundSocket bind_socket(int type, std::uint16_t port, const std::string& host) {
  const auto where = "listen on " + host + ":" + std::to_string(port);
  auto address = ipv4_address(host, port);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  UniqueFd fd(check(::socket(AF_INET, type | SOCK_CLOEXEC, 0), "socket"));
  if (port != 0) {  // TIME_WAIT is no obstacle
    const int one = 1;
    check(::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
  }
  check(::bind(fd.get(), any, size), where.c_str());
  check(::getsockname(fd.get(), any, &size), "getsockname");
  return {std::move(fd), ntohs(address.sin_port)};
}

std::uint16_t lasting_port() {
  std::random_device random;
  while (true) {
    const auto port = std::uniform_int_distribution<std::uint16_t>(10'000, 30'000)(random);
    try {
      return bind_socket(SOCK_STREAM, port).port;
    } catch (const std::system_error&) {  // in use
    }
  }
}

}  // namespace tests
