#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"
#include "support/name_server.hpp"
#include "support/network.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kOtherAddressA = "10.213.77.3";

// Service A on one host, with two addresses; Service B on the other, where a name server that can
// be told what to do says where "service-a.test" is.
class NameFault : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = why_no_network()) GTEST_SKIP() << *why;
    network_.emplace();
    network_->ip("a", {"addr", "add", std::string(kOtherAddressA) + "/24", "dev", "wire"});
    // After a second, a question is asked again.
    network_->set_etc("b", "resolv.conf", "nameserver 127.0.0.1\noptions timeout:1\n");
    start_name_server();
  }

  void start_name_server() {
    server_.emplace(
        [this](const std::string& query) {
          const std::lock_guard lock(mutex_);
          const bool silent = silent_ || (silent_v6_ && question_of(query).is_v6);
          return silent ? std::string() : address_answer(query, {address_});
        },
        53);
  }
  void set_address(const std::string& address) {
    const std::lock_guard lock(mutex_);
    address_ = address;
  }
  void set_silent(bool silent) {
    const std::lock_guard lock(mutex_);
    silent_ = silent;
  }
  void set_silent_v6() {
    const std::lock_guard lock(mutex_);
    silent_v6_ = true;
  }

  Service start_a(const std::string& host, std::uint16_t port = 0) {
    return network_->start("a", kServiceA, {"--host=" + host, "--port=" + std::to_string(port)});
  }
  Service start_b(std::uint16_t port) {
    return network_->start("b", kServiceB,
                           {"--service-a-url=http://service-a.test:" + std::to_string(port)});
  }

  std::mutex mutex_;
  std::string address_ = Network::kAddressA;
  bool silent_ = false;
  bool silent_v6_ = false;
  std::optional<Network> network_;
  std::optional<NameServer> server_;
};

TEST_F(NameFault, AnAddressWithoutARouteHidesNoOtherFailure) {
  network_->set_etc("b", "hosts", "127.0.0.1 service-a.test\nfd00::2 service-a.test\n");
  auto b = start_b(9);  // nobody listens there
  const auto result = get(b.port(), "/call-echo?msg=one");
  ASSERT_EQ(result.status(), 503) << result.error;
  EXPECT_EQ(result.response->json().value("reason", ""), "connection_refused");
  EXPECT_EQ(b.stop(), 0);
}

// Connections to A are renewed every two seconds, so each caller needs an address again and again.
TEST_F(NameFault, ANameServerThatDiesUnderLoadFailsNoCall) {
  auto a = start_a("0.0.0.0");
  auto b = start_b(a.port());
  expect_right_answer(b.port(), "the name resolves");
  Callers callers({.port = b.port(), .count = 16, .seed = chaos_seed()});
  EXPECT_TRUE(callers.wait_for_ok(100));

  const auto threads = thread_count(b.process().pid());
  const auto queries = server_->queries();
  set_silent(true);
  std::this_thread::sleep_for(seconds(10));  // what is shown is that nothing happens in them
  EXPECT_GT(server_->queries(), queries + 2);
  EXPECT_LE(thread_count(b.process().pid()), threads + 4);
  server_.reset();
  std::this_thread::sleep_for(seconds(3));
  EXPECT_TRUE(callers.wait_for_ok(100));
  set_silent(false);
  start_name_server();
  EXPECT_TRUE(eventually([&] { return server_->queries() > 0; }));
  EXPECT_TRUE(callers.wait_for_ok(100));
  const auto tally = callers.stop();
  report(tally.summary());
  expect_no_violation(tally);
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NameFault, AFirewallThatDropsOneKindOfQuestionCostsLittle) {
  set_silent_v6();
  auto a = start_a("0.0.0.0");
  auto b = start_b(a.port());
  const auto first = get(b.port(), "/call-echo?msg=one");
  EXPECT_EQ(first.status(), 200) << first.error;
  Callers callers({.port = b.port(), .count = 8, .seed = chaos_seed()});
  std::this_thread::sleep_for(seconds(3));  // connections are renewed meanwhile
  const auto tally = callers.stop();
  report("first call " + std::to_string(first.elapsed.count()) + " ms, " + tally.summary());
  expect_no_violation(tally);
  EXPECT_LT(first.elapsed, milliseconds(50) + kSlack);
  EXPECT_LT(tally.slowest, milliseconds(50) + kSlack);
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NameFault, ANewAddressIsUsedByTheNextCall) {
  for (const bool without_v6 : {false, true}) {
    if (without_v6) set_silent_v6();
    set_address(Network::kAddressA);
    auto a = start_a(Network::kAddressA);
    auto b = start_b(a.port());
    expect_right_answer(b.port(), "the first address");
    EXPECT_EQ(a.stop(), 0);
    auto moved = start_a(kOtherAddressA, a.port());
    set_address(kOtherAddressA);
    expect_right_answer(b.port(), without_v6 ? "moved, questions are dropped" : "moved");

    // Not known before the name server is back.
    set_silent(true);
    EXPECT_EQ(moved.stop(), 0);
    auto back = start_a(Network::kAddressA, a.port());
    set_address(Network::kAddressA);
    EXPECT_EQ(get(b.port(), "/call-echo?msg=one").status(), 503);
    set_silent(false);
    EXPECT_TRUE(eventually([&] { return get(b.port(), "/call-echo?msg=one").status() == 200; }));
    EXPECT_EQ(b.stop(), 0);
  }
}

}  // namespace
}  // namespace tests::chaos
