#include "common/systemd.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <system_error>

namespace common::systemd {
namespace {

long long number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::atoll(text);
}

}  // namespace

void notify(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto size = std::string_view(path).copy(address.sun_path, sizeof address.sun_path);
  if (path[0] == '@') address.sun_path[0] = '\0';  // unix(7): an abstract address
  // Kept open: clients that use up all descriptors must not silence the watchdog.
  static const int fd = [] {
    const int made = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const timeval limit{1, 0};  // seconds: one that does not read must not hold the service up
    setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return made;
  }();
  ::sendto(fd, state.data(), state.size(), MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size));
}

std::chrono::microseconds watchdog_time() {
  const auto pid = number_in("WATCHDOG_PID");
  const bool ours = pid == 0 || pid == getpid();
  return std::chrono::microseconds(ours ? number_in("WATCHDOG_USEC") : 0);
}

int inherited_socket() {
  if (number_in("LISTEN_PID") != getpid()) return -1;
  const auto count = number_in("LISTEN_FDS");
  if (count > 1) {
    throw std::system_error(EINVAL, std::generic_category(),
                            "the service manager's socket: " + std::to_string(count) +
                                " sockets are passed, one is taken");
  }
  return count == 1 ? 3 : -1;  // they start behind stderr
}

bool is_journal(int fd) {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat status {};
  return stream != nullptr && fstat(fd, &status) == 0 &&
         stream == std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
}

}  // namespace common::systemd
