#include "support/network.hpp"

#include <atomic>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"
#include "support/name_server.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

// Service A at one end of a wire, Service B and its callers at the other.
class NetworkFault : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = why_no_network()) GTEST_SKIP() << *why;
    network_.emplace();
  }

  Service start_a() { return network_->start("a", kServiceA, {"--host=0.0.0.0"}); }
  Service start_b(const std::string& url) {
    return network_->start("b", kServiceB, {"--service-a-url=" + url});
  }
  static std::string url_of(const std::string& host, std::uint16_t port) {
    return "http://" + host + ":" + std::to_string(port);
  }

  // Callers, until `wanted` answers other than a 200.
  static Tally call(Service& b, std::set<std::string, std::less<>> reasons, std::size_t wanted) {
    Callers callers({.port = b.port(),
                     .count = 8,
                     .seed = chaos_seed(),
                     .reasons = std::move(reasons),
                     .pause = milliseconds(5)});
    EXPECT_TRUE(callers.wait_for_unavailable(wanted)) << callers.so_far().summary();
    const auto tally = callers.stop();
    expect_no_violation(tally);
    return tally;
  }

  // That all is well again at once, or soon.
  static void expect_recovery(Service& b) {
    EXPECT_TRUE(eventually([&] { return get(b.port(), "/call-echo?msg=one").status() == 200; }));
    Callers callers({.port = b.port(), .count = 8, .seed = chaos_seed() + 1});
    EXPECT_TRUE(callers.wait_for_ok(100));
    expect_no_violation(callers.stop());
  }

  std::optional<Network> network_;
};

TEST_F(NetworkFault, PacketsThatVanishAreATimeoutAndRecoveryIsImmediate) {
  auto a = start_a();
  auto b = start_b(url_of(Network::kAddressA, a.port()));
  expect_recovery(b);
  const auto before = footprint(b.process().pid());
  network_->silence("b", Network::kAddressA);
  const auto there = call(b, {"timeout"}, 16);
  network_->unsilence("b", Network::kAddressA);
  expect_right_answer(b.port(), "the first call afterwards");

  network_->silence("a", Network::kAddressB);
  const auto back = call(b, {"timeout"}, 16);
  network_->unsilence("a", Network::kAddressB);
  expect_right_answer(b.port(), "the first call afterwards");
  expect_recovery(b);
  report("to service-a: " + there.summary() + " | from service-a: " + back.summary());
  EXPECT_LE(thread_count(b.process().pid()), before.threads);
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, NobodyListensIsConnectionRefused) {
  std::uint16_t port = 0;
  {
    auto a = start_a();
    port = a.port();
  }
  auto b = start_b(url_of(Network::kAddressA, port));
  const auto tally = call(b, {"connection_refused"}, 200);
  report(tally.summary());
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, ARouterThatRejectsIsUnreachable) {
  // Side "a" forwards, and answers "host unreachable" for what it has no way to.
  network_->set("a", "ipv4/ip_forward", "1");
  network_->ip("a", {"route", "add", "unreachable", "10.213.78.0/24"});
  network_->ip("b", {"route", "add", "10.213.78.0/24", "via", Network::kAddressA});
  auto b = start_b(url_of("10.213.78.5", 8080));
  const auto result = get(b.port(), "/call-echo?msg=one");
  ASSERT_EQ(result.status(), 503) << result.error;
  EXPECT_EQ(result.response->field("reason"), "unreachable");
  // A router says so only that often: the others hear nothing.
  const auto tally = call(b, {"unreachable", "timeout"}, 16);
  report(tally.summary());
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, NoRouteIsUnreachable) {
  auto b = start_b(url_of("10.213.79.5", 8080));
  const auto tally = call(b, {"unreachable"}, 200);
  network_->ip("b", {"route", "add", "prohibit", "10.213.79.0/24"});
  const auto prohibited = call(b, {"unreachable"}, 200);
  report(tally.summary() + " | prohibited: " + prohibited.summary());
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, AHostThatIsNotThereIsUnreachableOrATimeout) {
  auto b = start_b(url_of("10.213.77.50", 8080));
  const auto tally = call(b, {"unreachable", "timeout"}, 16);
  report(tally.summary());
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, PacketsLostAtRandomCostAnswersButNotTime) {
  if (!can_filter_packets()) GTEST_SKIP() << "nft is not installed, or may not be used";
  auto a = start_a();
  auto b = start_b(url_of(Network::kAddressA, a.port()));
  expect_recovery(b);
  network_->run("a", {"nft",
                      "add table ip chaos; "
                      "add chain ip chaos input { type filter hook input priority 0; }; "
                      "add chain ip chaos output { type filter hook output priority 0; }; "
                      "add rule ip chaos input numgen random mod 100 < 30 drop; "
                      "add rule ip chaos output numgen random mod 100 < 30 drop"});
  const auto tally = call(b, {"timeout"}, 16);
  network_->run("a", {"nft", "delete table ip chaos"});
  expect_recovery(b);
  report("30% lost each way: " + tally.summary());
  EXPECT_GT(tally.ok, 0U);
  EXPECT_EQ(b.stop(), 0);
}

// TCP repeats it after a second, when the budget is spent.
TEST_F(NetworkFault, TheFirstPacketOfAConnectionMayBeLost) {
  if (!can_filter_packets()) GTEST_SKIP() << "nft is not installed, or may not be used";
  auto a = start_a();
  auto b = start_b(url_of(Network::kAddressA, a.port()));
  network_->run("a", {"nft",
                      "add table ip chaos; "
                      "add chain ip chaos input { type filter hook input priority 0; }; "
                      "add rule ip chaos input limit rate 1/day burst 1 packets drop"});
  const auto result = get(b.port(), "/call-echo?msg=one");
  EXPECT_EQ(result.status(), 200) << result.error;
  EXPECT_GT(result.elapsed, milliseconds(400)) << "no packet was lost";
  network_->run("a", {"nft", "delete table ip chaos"});
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, LinkDownAndUp) {
  auto a = start_a();
  auto b = start_b(url_of(Network::kAddressA, a.port()));
  Tally all;
  for (const char* side : {"a", "b", "a", "b"}) {
    expect_recovery(b);
    network_->ip(side, {"link", "set", "wire", "down"});
    all.add(call(b, {"timeout", "unreachable"}, 16));
    network_->ip(side, {"link", "set", "wire", "up"});
  }
  expect_recovery(b);
  report(all.summary() + " links down=4");
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, AnAddressThatSwallowsPacketsLeavesTimeForTheNextOne) {
  auto a = start_a();
  network_->set_etc("b", "hosts",
                    std::string(Network::kSilentAddress) + " service-a.test\n" +
                        Network::kAddressA + " service-a.test\n");
  const NameServer server([](const std::string&) { return std::string(); }, 53);
  network_->set_etc("b", "resolv.conf", "nameserver 127.0.0.1\n");
  auto b = start_b(url_of("service-a.test", a.port()));
  expect_right_answer(b.port(), "one");
  EXPECT_EQ(server.queries(), 0);  // the hosts file says it all
  EXPECT_EQ(b.stop(), 0);
}

// An address of one kind ends a look-up: what a place further down says of the other is not asked.
TEST_F(NetworkFault, AddressesAreThoseOfTheFirstPlaceThatHasAny) {
  std::mutex mutex;
  std::set<std::string> domains;
  const NameServer server(
      [&](const std::string& query) {
        const auto domain = query.substr(query.find("service-a") + 10, 6);
        const std::lock_guard lock(mutex);
        domains.insert(domain);
        return address_answer(query, {domain == "second" ? Network::kAddressA : "127.0.0.1"});
      },
      53);
  network_->set_etc("b", "resolv.conf", "nameserver 127.0.0.1\nsearch second.test third.test\n");
  network_->set_etc("b", "hosts", "::2 in-the-file.test\n");
  auto a = start_a();
  auto b = start_b(url_of("service-a", a.port()));
  expect_right_answer(b.port(), "the first domain of the search list");
  EXPECT_EQ(b.stop(), 0);
  EXPECT_THAT(domains, ::testing::ElementsAre("second"));

  auto b_of_file = start_b(url_of("in-the-file.test", a.port()));
  const auto result = get(b_of_file.port(), "/call-echo?msg=one");
  ASSERT_EQ(result.status(), 503) << result.error;
  EXPECT_EQ(result.response->field("reason"), "unreachable");  // there is no IPv6 here
  EXPECT_EQ(b_of_file.stop(), 0);
  EXPECT_THAT(domains, ::testing::ElementsAre("second"));
}

TEST_F(NetworkFault, AResolverThatHangsCostsNoThreadAndNoTime) {
  network_->set_etc("b", "resolv.conf",
                    std::string("nameserver ") + Network::kSilentAddress + "\n");
  auto b = start_b(url_of("service-a.test", 8080));
  call(b, {"timeout", "dns_failure"}, 8);  // each loop has its thread for look-ups now
  const auto before = footprint(b.process().pid());
  const auto tally = call(b, {"timeout", "dns_failure"}, 24);
  const auto after = footprint(b.process().pid());
  report(tally.summary() + " | service-b before " + to_text(before) + ", after " + to_text(after));
  EXPECT_EQ(difference(b.process().pid(), before), "");
  EXPECT_EQ(b.stop(), 0);
}

TEST_F(NetworkFault, AStopDoesNotWaitForAResolverThatHangs) {
  network_->set_etc("b", "resolv.conf",
                    std::string("nameserver ") + Network::kSilentAddress + "\n");
  auto b = network_->start("b", kServiceB,
                           {"--service-a-url=http://service-a.test:8080", "--timeout=4s"});
  const auto call = [&] { return get(b.port(), "/call-echo?msg=one").status(); };
  auto early = std::async(std::launch::async, call);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  std::vector<std::future<int>> later;  // so many that each loop has one
  for (int i = 0; i < 8; ++i) later.push_back(std::async(std::launch::async, call));
  EXPECT_EQ(early.get(), 503);
  for (auto& each : later) EXPECT_EQ(each.get(), 503);
  // Now there is a look-up that was made again two seconds ago, and nobody waits for it any more.
  const auto start = Clock::now();
  EXPECT_EQ(b.stop(), 0);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(1) + kSlack);
}

TEST_F(NetworkFault, AResolverThatIsNotThereIsADnsFailure) {
  network_->set_etc("b", "resolv.conf", std::string("nameserver ") + Network::kAddressA + "\n");
  network_->set("a", "ipv4/icmp_ratemask", "0");  // each question hears "port unreachable"
  auto b = start_b(url_of("service-a.test", 8080));
  const auto tally = call(b, {"dns_failure"}, 50);
  report(tally.summary());
  EXPECT_EQ(b.stop(), 0);
}

// All calls share a look-up: it must not end with the one that had it begun.
TEST_F(NetworkFault, ALookUpGoesOnForLaterCalls) {
  std::atomic<bool> speaks = false;
  const NameServer server(
      [&](const std::string& query) {
        return speaks ? address_answer(query, {Network::kAddressA}) : std::string();
      },
      53);
  network_->set_etc("b", "resolv.conf", "nameserver 127.0.0.1\noptions timeout:2\n");
  auto a = start_a();
  auto b = start_b(url_of("service-a.test", a.port()));

  auto early = std::async(std::launch::async, [&] { return get(b.port(), "/call-echo?msg=one"); });
  ASSERT_TRUE(eventually([&] { return server.queries() > 0; }));
  std::this_thread::sleep_for(milliseconds(1'300));  // the question is asked again after 2 s
  EXPECT_EQ(early.get().status(), 503);
  speaks = true;
  std::vector<std::future<Result>> later;  // so many that each loop has one
  for (int i = 0; i < 8; ++i) {
    later.push_back(
        std::async(std::launch::async, [&] { return get(b.port(), "/call-echo?msg=one"); }));
  }
  for (auto& each : later) EXPECT_EQ(each.get().status(), 200);
  EXPECT_EQ(b.stop(), 0);
}

// A connection to a port of the range that local ends are taken from can meet itself, when nobody
// listens there (RFC 9293, section 3.5: simultaneous open). With a range this small it often does.
TEST_F(NetworkFault, ServiceBDoesNotTakeItselfForServiceA) {
  constexpr int kFirst = 40'000;
  constexpr int kLast = 40'015;
  auto b = start_b(url_of("127.0.0.1", kFirst));
  Connection connection(b.port());  // made before, so that all of the range is for service-b
  network_->set("b", "ipv4/ip_local_port_range",
                std::to_string(kFirst) + " " + std::to_string(kLast));
  Tally tally;
  for (int i = 0; i < 200; ++i) {
    const auto start = Clock::now();
    ASSERT_TRUE(connection.send("GET /call-echo?msg=one HTTP/1.1\r\nHost: chaos\r\n\r\n"));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    ++tally.calls;
    tally.add_duration(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start));
    ++tally.unavailable[response->field("reason")];
  }
  report(tally.summary());
  EXPECT_EQ(tally.unavailable_for("connection_refused"), tally.calls);

  // Nor does it leave the port in TIME_WAIT, where service-a could not listen.
  auto a = network_->start("b", kServiceA, {"--port=" + std::to_string(kFirst)});
  expect_right_answer(b.port(), "when service-a is there");
  EXPECT_EQ(b.stop(), 0);
}

}  // namespace
}  // namespace tests::chaos
