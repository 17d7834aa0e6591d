#include "support/name_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>

namespace tests {

NameServer::NameServer(MakeAnswer make_answer, std::uint16_t port)
    : make_answer_(std::move(make_answer)),
      fd_(check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")),
      stop_(check(::eventfd(0, EFD_CLOEXEC), "eventfd")) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  check(::bind(fd_.get(), any, sizeof address), "bind");
  socklen_t size = sizeof address;
  check(::getsockname(fd_.get(), any, &size), "getsockname");
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { serve(); });
}

NameServer::~NameServer() {
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void NameServer::serve() {
  std::array<pollfd, 2> polled{{{fd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
  while (::poll(polled.data(), polled.size(), -1) >= 0 && polled[1].revents == 0) {
    std::array<char, 2048> buffer{};
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    auto* peer = reinterpret_cast<sockaddr*>(&from);
    const auto count = ::recvfrom(fd_.get(), buffer.data(), buffer.size(), 0, peer, &size);
    if (count < 12) continue;
    ++queries_;
    const auto answer = make_answer_(std::string(buffer.data(), static_cast<std::size_t>(count)));
    if (!answer.empty()) ::sendto(fd_.get(), answer.data(), answer.size(), 0, peer, size);
  }
}

std::string answer_to(const std::string& query, char code, int records) {
  std::string out = query.substr(0, query.find('\0', 12) + 5);
  out[2] = static_cast<char>(0x81);
  out[3] = static_cast<char>(0x80 | code);
  out.replace(4, 8, std::string("\0\1\0", 3) + static_cast<char>(records) + std::string(4, '\0'));
  return out;
}

std::string address_answer(const std::string& query, const char* address) {
  const auto type = query[query.find('\0', 12) + 2];
  if (type != 1) return answer_to(query, 0, 0);  // AAAA: none
  std::string record("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4....", 16);
  ::inet_pton(AF_INET, address, &record[12]);
  return answer_to(query, 0, 1) + record;
}

}  // namespace tests
