#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <filesystem>

#include "integration/harness.hpp"

// The service manager's side of sd_notify(3) and sd_listen_fds(3), played by the test.

namespace tests {
namespace {

using namespace std::chrono_literals;

// What NOTIFY_SOCKET names. One datagram is one message.
class NotifySocket {
 public:
  // `abstract`: not in the file system; unix(7).
  explicit NotifySocket(bool abstract)
      : fd_(check(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")),
        name_(std::string(abstract ? "@" : "") + std::filesystem::temp_directory_path().string() +
              "/notify-" + std::to_string(::getpid()) + "-" + std::to_string(fd_.get())) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    name_.copy(address.sun_path, sizeof address.sun_path - 1);
    if (abstract) address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
    check(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), size), "bind");
  }
  ~NotifySocket() {
    if (!name_.starts_with('@')) ::unlink(name_.c_str());
  }
  NotifySocket(const NotifySocket&) = delete;
  NotifySocket& operator=(const NotifySocket&) = delete;

  // Until it takes no more.
  void fill() const {
    sockaddr_un address{};
    socklen_t size = sizeof address;
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    check(::getsockname(fd_.get(), name, &size), "getsockname");
    const UniqueFd sender(check(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
    while (::sendto(sender.get(), "", 1, MSG_DONTWAIT, name, size) == 1) {
    }
  }

  std::string variable() const { return "NOTIFY_SOCKET=" + name_; }

  // The next message; empty when none comes within `timeout`.
  std::string next(milliseconds timeout = kPatience) {
    pollfd wanted{fd_.get(), POLLIN, 0};
    if (::poll(&wanted, 1, static_cast<int>(timeout.count())) != 1) return {};
    std::array<char, 256> message{};
    const auto size = ::recv(fd_.get(), message.data(), message.size(), 0);
    return {message.data(), static_cast<std::size_t>(check(static_cast<int>(size), "recv"))};
  }

 private:
  UniqueFd fd_;
  std::string name_;
};

struct Systemd : EachService {
  // The command of a service that is given a socket. Its own port is one that it could not take.
  std::vector<std::string> activated() const {
    return {"-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\"", binary, "--port=1"};
  }
  static ProcessOptions with_socket(int fd, const std::string& count = "1") {
    return {.environment = {"LISTEN_FDS=" + count, "HOST=127.0.0.1"}, .file_3 = fd};
  }
};

TEST_P(Systemd, IsToldWhenTheServiceIsReadyAndWhenItStops) {
  for (const bool abstract : {false, true}) {
    SCOPED_TRACE(abstract);
    NotifySocket manager(abstract);
    // A sign of life is asked of another process, or of nobody.
    std::vector<std::string> environment{manager.variable()};
    if (abstract) environment.insert(environment.end(), {"WATCHDOG_USEC=1000", "WATCHDOG_PID=1"});
    Service service(binary, {}, {.environment = environment});
    EXPECT_EQ(manager.next(), "READY=1");
    EXPECT_EQ(get(service.port(), "/health").status, 200);
    EXPECT_EQ(manager.next(1500ms), "");
    service.process().signal(SIGTERM);
    EXPECT_EQ(manager.next(), "STOPPING=1");
    EXPECT_EQ(service.process().wait(kPatience), 0);
    EXPECT_EQ(manager.next(0ms), "");
  }
}

TEST_P(Systemd, HoldsUpNoServiceByReadingNothing) {
  NotifySocket manager(false);
  manager.fill();
  Service service(binary, {}, {.environment = {manager.variable()}});
  EXPECT_EQ(get(service.port(), "/health").status, 200);
  EXPECT_EQ(service.stop(), 0);
}

TEST_P(Systemd, IsToldNothingByAServiceThatCannotListen) {
  NotifySocket manager(true);
  Service other(binary);
  const auto result = run(binary, {"--port=" + std::to_string(other.port())},
                          {.environment = {manager.variable()}});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(manager.next(0ms), "");
}

TEST_P(Systemd, HearsASignOfLifeTwiceInEachWatchdogTimeHoweverManyClientsThereAre) {
  NotifySocket manager(true);
  Service service(binary, {"--max-connections=1"},
                  {.environment = {manager.variable(), "WATCHDOG_USEC=1000000"}});
  EXPECT_EQ(manager.next(), "READY=1");
  const auto clients = connect_and_send(service.port(), 200, "");
  const auto start = Clock::now();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(manager.next(), "WATCHDOG=1");
  EXPECT_GE(Clock::now() - start, 2400ms);  // twice a second, and no more
  EXPECT_LT(Clock::now() - start, 6s);      // 3 s, and what a busy machine takes
  service.process().signal(SIGTERM);
  EXPECT_TRUE(eventually([&] { return manager.next() == "STOPPING=1"; }));
}

TEST_P(Systemd, PassesASocketWhoseClientsWaitThroughAStopAndAStart) {
  Listener listener;
  for (int i = 0; i < 2; ++i) {
    Connection early(listener.port());  // before the service runs
    ASSERT_TRUE(early.send(request_text("/health")));
    Service service("sh", activated(), with_socket(listener.fd()));
    EXPECT_EQ(service.port(), listener.port());
    EXPECT_EQ(value(start_line(service), "host"), "127.0.0.1");
    EXPECT_EQ(value(start_line(service), "host_from"), "(none)") << "HOST has no effect";
    EXPECT_EQ(ask(early, "").status, 200);
    EXPECT_EQ(get(listener.port(), "/health").status, 200);
    EXPECT_EQ(service.stop(), 0);
  }
  auto with_admin_port = activated();
  with_admin_port.push_back("--admin-port=0");
  Service both("sh", with_admin_port, with_socket(listener.fd()));
  EXPECT_EQ(value(start_line(both), "host_from"), "environment") << "it is that of the admin port";
  Service other("sh", {"-c", "export LISTEN_PID=1; exec \"$0\" \"$@\"", binary, "--port=0"},
                with_socket(listener.fd()));
  EXPECT_NE(other.port(), listener.port()) << "it was not passed to this process";
}

TEST_P(Systemd, MustPassOneSocketThatListens) {
  Listener listener;
  const UniqueFd idle(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  for (const auto& [options, why] : std::vector<std::pair<ProcessOptions, std::string>>{
           {with_socket(listener.fd(), "2"), "2 sockets are passed, one is taken"},
           {with_socket(idle.get()), "not a TCP socket that listens"},
           {with_socket(STDOUT_FILENO), "not a TCP socket that listens"}}) {
    SCOPED_TRACE(why);
    const auto result = run("sh", activated(), options);
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err, GetParam() + ": cannot listen on the service manager's socket: " + why +
                              ": Invalid argument\n");
  }
}

TEST_P(Systemd, FindsTheLevelOfALineAtItsBeginningWhereTheJournalReadsIt) {
  const std::string script =
      "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/$FD); exec \"$0\" \"$@\"";
  for (const auto& [fd, prefix] : std::map<std::string, std::string>{{"1", "<6>"}, {"0", ""}}) {
    Service service("sh", {"-c", script, binary, "--port=0"}, {.environment = {"FD=" + fd}});
    EXPECT_TRUE(service.process().out().starts_with(prefix + "time=")) << service.process().out();
    get(service.port(), "/", {{"Bad Name", "x"}});
    ASSERT_TRUE(eventually([&] { return service.process().lines().size() == 2; }));
    EXPECT_TRUE(service.process().lines()[1].starts_with(fd == "1" ? "<4>time=" : "time="));
  }
  for (const auto& [fd, prefix] : std::map<std::string, std::string>{{"2", "<3>"}, {"1", ""}}) {
    const auto result =
        run("sh", {"-c", script, binary, "--port=x"}, {.environment = {"FD=" + fd}});
    EXPECT_EQ(result.code, 2);
    EXPECT_TRUE(result.err.starts_with(prefix + GetParam() + ": --port: ")) << result.err;
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Systemd, testing::Values("service-a", "service-b"), service_name);

}  // namespace
}  // namespace tests
