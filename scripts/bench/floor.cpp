// The floor of Service A: the least that any server on epoll does. Two threads, the same answer to
// whatever ends in an empty line, and a log line. Nothing is checked: this is no server to use.
//   floor PORT
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

namespace {

constexpr std::string_view kAnswer =
    "HTTP/1.1 200 OK\r\nContent-Length: 17\r\nContent-Type: application/json\r\n\r\n"
    "{\"echo\":\"hello\"}\n";

void write_all(int to, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto written = write(to, bytes.data(), bytes.size());
    if (written <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

class Log {
 public:
  void line(double latency_ms) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    std::array<char, 160> text{};
    const auto size =
        std::snprintf(text.data(), text.size(),
                      "time=%lld level=info service=floor method=GET endpoint=/echo status=200 "
                      "latency_ms=%.3f\n",
                      static_cast<long long>(now.count()), latency_ms);
    lines_.append(text.data(), static_cast<std::size_t>(size));
    if (lines_.size() > 64 * 1024) flush();
  }
  void flush() {
    write_all(STDOUT_FILENO, lines_);
    lines_.clear();
  }

 private:
  std::string lines_;
};

void serve(int epoll) {
  Log log;
  std::array<epoll_event, 64> events{};
  std::array<char, 16 * 1024> in{};
  for (;;) {
    const auto ready = epoll_wait(epoll, events.data(), events.size(), 200);
    if (ready <= 0) log.flush();
    for (int i = 0; i < ready; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const int connection = events[static_cast<std::size_t>(i)].data.fd;
      const auto size = read(connection, in.data(), in.size());
      if (size <= 0) {
        close(connection);
        continue;
      }
      if (!std::string_view(in.data(), static_cast<std::size_t>(size)).ends_with("\r\n\r\n")) {
        continue;
      }
      write_all(connection, kAnswer);
      const std::chrono::duration<double, std::milli> took =
          std::chrono::steady_clock::now() - start;
      log.line(took.count());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(argv[1])));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 4096) != 0) {
    std::perror("floor");
    return 1;
  }
  std::array<int, 2> epolls{};
  for (auto& epoll : epolls) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    std::thread(serve, epoll).detach();
  }
  for (std::size_t next = 0;; next = (next + 1) % epolls.size()) {
    const int connection = accept(listener, nullptr, nullptr);
    if (connection < 0) continue;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = connection;
    epoll_ctl(epolls[next], EPOLL_CTL_ADD, connection, &event);
  }
}
