#include "common/http/resolver.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <array>
#include <string>

#include "support/name_server.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;
using tests::NameServer;

std::string loopback_address(const std::string& query) {
  return tests::address_answer(query, "127.0.0.2");
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
    return std::string(text.data()) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
  return std::string(text.data()) + "|" + std::to_string(ntohs(v6.sin6_port));
}

// A name that no hosts file has.
const std::string kName = "service-a.resolver-test.invalid";

TEST(Resolve, TakesAddressesAsTheyAre) {
  for (const auto& [host, text] : {std::pair{"127.0.0.1", "127.0.0.1:8080"},
                                   {"::1", "::1|8080"},
                                   {"0.0.0.0", "0.0.0.0:8080"}}) {
    const auto found = resolve_literal(host, 8080);
    ASSERT_TRUE(found);
    ASSERT_EQ(found->addresses.size(), 1u);
    EXPECT_EQ(text_of(found->addresses[0]), text);
    EXPECT_FALSE(found->timed_out);
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
  const NameServer server([](const std::string& query) { return tests::answer_to(query, 3, 0); });
  const auto [found, elapsed] = resolve_within(10s, kName, server.address());
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_FALSE(found.timed_out);
  EXPECT_NE(found.error, "");
  EXPECT_LT(elapsed, 5s);
}

TEST(Resolve, ANameServerThatFailsIsAnErrorOrTheDeadline) {
  const NameServer server([](const std::string& query) { return tests::answer_to(query, 2, 0); });
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

TEST(Resolve, ANameServerThatIsNotThereIsAnErrorAtOnce) {
  std::string address;
  {
    const NameServer gone([](const std::string&) { return std::string(); });
    address = gone.address();
  }
  const auto [found, elapsed] = resolve_within(10s, kName, address);
  EXPECT_TRUE(found.addresses.empty());
  EXPECT_FALSE(found.timed_out);
  EXPECT_NE(found.error, "");
  EXPECT_LT(elapsed, 1s);  // c-ares would ask again after 1.7 s
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
