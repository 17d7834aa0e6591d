#include "common/http/resolver.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "support/posix.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A UDP name server on the loopback that answers what `make_answer` makes of a query; nothing
/// where that is empty.
class NameServer {
 public:
  using MakeAnswer = std::function<std::string(const std::string& query)>;

  explicit NameServer(MakeAnswer make_answer)
      : make_answer_(std::move(make_answer)),
        fd_(tests::check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket")),
        stop_(tests::check(::eventfd(0, EFD_CLOEXEC), "eventfd")) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    tests::check(::bind(fd_.get(), any, sizeof address), "bind");
    socklen_t size = sizeof address;
    tests::check(::getsockname(fd_.get(), any, &size), "getsockname");
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~NameServer() {
    ::eventfd_write(stop_.get(), 1);
    thread_.join();
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int queries() const { return queries_; }

 private:
  void serve() {
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

  const MakeAnswer make_answer_;
  tests::UniqueFd fd_;
  tests::UniqueFd stop_;
  std::uint16_t port_ = 0;
  std::atomic<int> queries_ = 0;
  std::thread thread_;
};

// The query's header and question, turned into an answer with this code and so many records (RFC
// 1035, section 4.1).
std::string answer_to(const std::string& query, char code, int records) {
  std::string out = query.substr(0, query.find('\0', 12) + 5);
  out[2] = static_cast<char>(0x81);
  out[3] = static_cast<char>(0x80 | code);
  out.replace(4, 8, std::string("\0\1\0", 3) + static_cast<char>(records) + std::string(4, '\0'));
  return out;
}

std::string loopback_address(const std::string& query) {
  const auto type = query[query.find('\0', 12) + 2];
  if (type != 1) return answer_to(query, 0, 0);  // AAAA: none
  return answer_to(query, 0, 1) + std::string("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\2", 16);
}

struct Timed {
  Resolution resolution;
  std::chrono::milliseconds elapsed;
};

Timed resolve_within(std::chrono::milliseconds budget, const std::string& host,
                     const std::string& servers = {}) {
  const auto start = Clock::now();
  auto resolution = resolve(host, 8080, start + budget, servers);
  return {std::move(resolution),
          std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start)};
}

std::string text_of(const SocketAddress& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(address.storage);
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address.storage);
  if (address.storage.ss_family == AF_INET) {
    inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return text.data() + (":" + std::to_string(ntohs(v4.sin_port)));
  }
  inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
  return text.data() + ("|" + std::to_string(ntohs(v6.sin6_port)));
}

// A name that no hosts file has.
const std::string kName = "service-a.resolver-test.invalid";

TEST(Resolve, TakesAddressesAsTheyAre) {
  for (const auto& [host, text] : {std::pair{"127.0.0.1", "127.0.0.1:8080"},
                                   {"::1", "::1|8080"},
                                   {"0.0.0.0", "0.0.0.0:8080"}}) {
    const auto found = resolve(host, 8080, Clock::now());  // asks nobody, so needs no time
    ASSERT_EQ(found.addresses.size(), 1u);
    EXPECT_EQ(text_of(found.addresses[0]), text);
    EXPECT_FALSE(found.timed_out);
  }
}

TEST(Resolve, KnowsLocalhostWithoutAskingAnybody) {
  const NameServer server([](const std::string&) { return std::string(); });
  const auto found = resolve_within(5s, "localhost", server.address()).resolution;
  ASSERT_FALSE(found.addresses.empty()) << found.error;
  for (const auto& address : found.addresses) {
    EXPECT_TRUE(text_of(address) == "127.0.0.1:8080" || text_of(address) == "::1|8080");
  }
  EXPECT_EQ(server.queries(), 0);
}

TEST(Resolve, TakesWhatTheNameServerSays) {
  const NameServer server(loopback_address);
  const auto found = resolve_within(5s, kName, server.address()).resolution;
  ASSERT_EQ(found.addresses.size(), 1u) << found.error;
  EXPECT_EQ(text_of(found.addresses[0]), "127.0.0.2:8080");
}

TEST(Resolve, ASilentNameServerEndsAtTheDeadline) {
  const NameServer server([](const std::string&) { return std::string(); });
  const auto [found, elapsed] = resolve_within(300ms, kName, server.address());
  EXPECT_TRUE(found.timed_out) << found.error;
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_GE(elapsed, 299ms);
  EXPECT_LT(elapsed, 600ms);
  EXPECT_GE(server.queries(), 1);
}

TEST(Resolve, ADeadlineThatHasPassedEndsAtOnce) {
  const NameServer server([](const std::string&) { return std::string(); });
  const auto [found, elapsed] = resolve_within(-1s, kName, server.address());
  EXPECT_TRUE(found.timed_out) << found.error;
  EXPECT_LT(elapsed, 300ms);
}

TEST(Resolve, AnUnknownNameIsAnErrorAtOnce) {
  const NameServer server([](const std::string& query) { return answer_to(query, 3, 0); });
  const auto [found, elapsed] = resolve_within(10s, kName, server.address());
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_FALSE(found.timed_out);
  EXPECT_NE(found.error, "");
  EXPECT_LT(elapsed, 5s);
}

TEST(Resolve, ANameServerThatFailsIsAnErrorOrTheDeadline) {
  const NameServer server([](const std::string& query) { return answer_to(query, 2, 0); });
  const auto [found, elapsed] = resolve_within(1s, kName, server.address());
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_TRUE(found.timed_out || !found.error.empty());
  EXPECT_LT(elapsed, 1500ms);
}

TEST(Resolve, RubbishForAnAnswerIsAnErrorOrTheDeadline) {
  for (const auto& rubbish : {std::string(200, '\xff'), std::string(600, '\0'), std::string("x")}) {
    for (const bool right_id : {false, true}) {
      const NameServer server([&](const std::string& query) {
        return right_id ? query.substr(0, 2) + '\x81' + '\x80' + rubbish : rubbish;
      });
      const auto [found, elapsed] = resolve_within(400ms, kName, server.address());
      EXPECT_TRUE(found.addresses.empty());
      EXPECT_TRUE(found.timed_out || !found.error.empty());
      EXPECT_LT(elapsed, 800ms);
    }
  }
}

TEST(Resolve, ANameServerThatIsNotThereIsAnErrorOrTheDeadline) {
  std::string address;
  {
    const NameServer gone([](const std::string&) { return std::string(); });
    address = gone.address();
  }
  const auto [found, elapsed] = resolve_within(500ms, kName, address);
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_TRUE(found.timed_out || !found.error.empty());
  EXPECT_LT(elapsed, 1s);
}

TEST(Resolve, TheSecondNameServerHelpsWhereTheFirstIsSilent) {
  const NameServer silent([](const std::string&) { return std::string(); });
  const NameServer server(loopback_address);
  const auto [found, elapsed] =
      resolve_within(3s, kName, silent.address() + "," + server.address());
  ASSERT_EQ(found.addresses.size(), 1u) << found.error;
  EXPECT_LT(elapsed, 3s);
}

TEST(Resolve, NamesThatCannotBeAreErrors) {
  const NameServer server(loopback_address);
  for (const auto& name :
       {std::string(64, 'a') + ".invalid", std::string(300, 'a'), std::string("a..b")}) {
    const auto [found, elapsed] = resolve_within(500ms, name, server.address());
    EXPECT_TRUE(found.addresses.empty()) << name;
    EXPECT_LT(elapsed, 1s);
  }
}

}  // namespace
}  // namespace common::http
