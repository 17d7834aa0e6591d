#include "support/network.hpp"

#include <future>

#include "chaos/callers.hpp"
#include "support/faulty_upstream.hpp"
#include "support/name_server.hpp"

namespace tests::chaos {
namespace {

constexpr const char* kOtherAddressA = "10.213.77.3";
constexpr const char* kV6WithoutRoute = "2001:db8::1";

// Service A at one end of a wire, Service B and its callers at the other, with a name server that
// can be told what to do.
class NetworkFault : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = why_no_network()) GTEST_SKIP() << *why;
    network_.emplace();
    network_->set_etc("b", "resolv.conf", "nameserver 127.0.0.1\n");
    start_name_server();
  }

  void start_name_server() {
    server_.emplace(
        [this](const std::string& query) {
          if (silent_ || (loses_first_v4_ && !question_of(query).is_v6 && v4_queries_++ < 2)) {
            return std::string();
          }
          auto answer = address_answer(
              query, {moved_ ? kOtherAddressA : Network::kAddressA, kV6WithoutRoute});
          std::this_thread::sleep_for(answers_after_.load());
          return answer;
        },
        53);
  }
  Service start_a(const std::string& host = "0.0.0.0", std::uint16_t port = 0) const {
    return network_->start("a", kServiceA, {"--host=" + host, "--port=" + std::to_string(port)});
  }
  Service start_b(const std::string& host, std::uint16_t port,
                  const std::string& flag = "--timeout=1s") const {
    return network_->start("b", kServiceB,
                           {"--service-a-url=http://" + host + ":" + std::to_string(port), flag});
  }

  static Response call(const Service& b) {
    return get(b.port(), "/call-echo?msg=one", {}, kPatience);
  }
  // The status of such a call, which goes on meanwhile.
  static std::future<int> begin_call(const Service& b) {
    return std::async(std::launch::async, [&b] { return call(b).status; });
  }
  // Callers, until `wanted` answers other than a 200.
  static Tally call_often(Service& b, const Reasons& reasons, std::size_t wanted) {
    Callers callers({.port = b.port(), .count = 8, .reasons = reasons, .pause = milliseconds(5)});
    callers.wait_for_unavailable(wanted);
    auto tally = callers.stop();
    expect_no_violation(tally);
    return tally;
  }
  static void expect_recovery(const Service& b) {
    EXPECT_TRUE(eventually([&] { return call(b).status == 200; }));
    Callers callers({.port = b.port(), .count = 8, .seed = chaos_seed() + 1});
    callers.wait_for_ok(100);
    expect_no_violation(callers.stop());
  }
  static void expect_reason(const Service& b, const std::string& reason) {
    const auto response = call(b);
    EXPECT_EQ(response.status, 503) << response.error;
    EXPECT_EQ(response.field("reason"), reason) << response.body;
  }

  std::optional<Network> network_;
  std::atomic<bool> silent_ = false;
  std::atomic<bool> moved_ = false;
  std::atomic<milliseconds> answers_after_{};
  std::atomic<bool> loses_first_v4_ = false;
  std::atomic<int> v4_queries_ = 0;
  std::optional<NameServer> server_;
};

TEST_F(NetworkFault, CostsAnswersButNoTimeAndAllIsWellAfterwards) {
  struct Row {
    const char* what;
    std::function<void()> begin;
    std::function<void()> end;
    Reasons reasons;
    bool at_once;  // the first call afterwards is a 200
  };
  std::vector<Row> rows;
  for (const std::string side : {"b", "a"}) {
    const std::string other = side == "b" ? Network::kAddressA : Network::kAddressB;
    rows.push_back({"packets vanish",
                    [=, this] { network_->silence(side, other); },
                    [=, this] { network_->unsilence(side, other); },
                    {"timeout"},
                    true});
    const auto set_link = [=, this](const char* state) {
      network_->ip(side, {"link", "set", "wire", state});
    };
    rows.push_back({"link down",
                    [=] { set_link("down"); },
                    [=] { set_link("up"); },
                    {"timeout", "unreachable"},
                    false});
  }
  if (can_filter_packets()) {
    const auto nft = [this](const char* text) { network_->run("a", {"nft", text}); };
    rows.push_back({"30% lost each way",
                    [=] {
                      nft("add table ip chaos; "
                          "add chain ip chaos input { type filter hook input priority 0; }; "
                          "add chain ip chaos output { type filter hook output priority 0; }; "
                          "add rule ip chaos input numgen random mod 100 < 30 drop; "
                          "add rule ip chaos output numgen random mod 100 < 30 drop");
                    },
                    [=] { nft("delete table ip chaos"); },
                    {"timeout"},
                    false});
  }
  auto a = start_a();
  auto b = start_b(Network::kAddressA, a.port());
  expect_recovery(b);
  const auto before = footprint(b.process().pid());
  for (const auto& row : rows) {
    SCOPED_TRACE(row.what);
    row.begin();
    const auto tally = call_often(b, row.reasons, 16);
    row.end();
    if (row.at_once) expect_right_answer(b.port());
    expect_recovery(b);
    report(row.what + (" " + tally.summary()));
  }
  EXPECT_LE(thread_count(b.process().pid()), before.threads);
}

TEST_F(NetworkFault, HasTheReasonThatFits) {
  // Side "a" forwards, and answers "host unreachable" for what it has no way to.
  network_->set("a", "ipv4/ip_forward", "1");
  network_->ip("a", {"route", "add", "unreachable", "10.213.78.0/24"});
  network_->ip("b", {"route", "add", "10.213.78.0/24", "via", Network::kAddressA});
  network_->ip("b", {"route", "add", "prohibit", "10.213.80.0/24"});
  network_->set_etc("b", "hosts",
                    "127.0.0.1 two.test\nfd00::2 two.test\n::2 only-in-the-file.test\n");
  for (const auto& [host, reason] : std::vector<std::pair<std::string, std::string>>{
           {Network::kAddressA, "connection_refused"},
           {"10.213.78.5", "unreachable"},
           {"10.213.79.5", "unreachable"},  // there is no route
           {"10.213.80.5", "unreachable"},
           // An address without a route hides no other failure.
           {"two.test", "connection_refused"},
           // An address of one kind ends a look-up: the name server is not asked for the other.
           {"only-in-the-file.test", "unreachable"}}) {
    SCOPED_TRACE(host);
    expect_reason(start_b(host, 9), reason);
  }
  EXPECT_EQ(server_->queries(), 0);
  server_.reset();
  network_->set_etc("b", "resolv.conf", std::string("nameserver ") + Network::kAddressA + "\n");
  network_->set("a", "ipv4/icmp_ratemask", "0");  // each question hears "port unreachable"
  expect_reason(start_b("service-a.test", 9), "dns_failure");
}

// TCP repeats it after a second, when the budget is spent.
TEST_F(NetworkFault, TheFirstPacketOfAConnectionMayBeLost) {
  if (!can_filter_packets()) GTEST_SKIP() << "nft is not installed, or may not be used";
  const auto lose_one = [this](const std::string& then = "accept") {
    network_->run("a", {"nft",
                        "add table ip chaos; flush table ip chaos; "
                        "add chain ip chaos input { type filter hook input priority 0; }; "
                        "add rule ip chaos input limit rate 1/day burst 1 packets drop; "
                        "add rule ip chaos input " +
                            then});
  };
  auto a = start_a();
  const auto nobody = start_b(Network::kAddressA, 9);
  auto b = start_b(Network::kAddressA, a.port());
  lose_one();
  const auto start = Clock::now();
  expect_right_answer(b.port());
  EXPECT_GT(Clock::now() - start, milliseconds(400)) << "no packet was lost";
  lose_one();
  expect_reason(nobody, "connection_refused");
  lose_one("reject with icmp type host-prohibited");  // as firewalld does
  expect_reason(nobody, "unreachable");
}

TEST_F(NetworkFault, AnAddressThatSwallowsPacketsLeavesTimeForTheNextOne) {
  auto a = start_a();
  network_->set_etc("b", "hosts",
                    std::string(Network::kSilentAddress) + " service-a.test\n" +
                        Network::kAddressA + " service-a.test\n");
  auto b = start_b("service-a.test", a.port());
  expect_right_answer(b.port());
}

// One that is far away, or that lost a packet, must have the time to answer while others are tried.
TEST_F(NetworkFault, AnAddressThatIsSlowIsNotGivenUpForTheOthers) {
  auto a = start_a();
  std::string hosts = std::string(Network::kAddressA) + " service-a.test\n";
  for (int i = 0; i < 8; ++i) {
    const auto silent = "10.213.77." + std::to_string(100 + i);
    network_->silence("b", silent);
    hosts += silent + " service-a.test\n";
  }
  network_->set_etc("b", "hosts", hosts);
  auto b = start_b("service-a.test", a.port(), "--timeout=5s");
  network_->silence("b", Network::kAddressA);
  const auto start = Clock::now();
  auto status = begin_call(b);
  std::this_thread::sleep_for(milliseconds(700));  // by then the next one is being tried
  network_->unsilence("b", Network::kAddressA);
  EXPECT_EQ(status.get(), 200);  // TCP sends the first packet again after a second
  EXPECT_LT(Clock::now() - start, milliseconds(2'000));
}

TEST_F(NetworkFault, ThousandsOfAddressesCostNoTime) {
  std::string hosts;
  for (int i = 0; i < 2'000; ++i) {
    hosts += "127.1." + std::to_string(i / 250) + "." + std::to_string(i % 250) + " many.test\n";
  }
  network_->set_etc("b", "hosts", hosts);
  auto b = start_b("many.test", 9);
  expect_reason(b, "connection_refused");
  const auto start = Clock::now();
  EXPECT_EQ(call(b).status, 503);
  EXPECT_LT(Clock::now() - start, milliseconds(500));
}

TEST_F(NetworkFault, ANameServerThatHangsCostsNoThreadNoTimeAndNoStop) {
  silent_ = true;
  auto b = start_b("service-a.test", 9);
  call_often(b, {"timeout", "dns_failure"}, 8);  // each loop has its thread for look-ups now
  const auto before = footprint(b.process().pid());
  report(call_often(b, {"timeout", "dns_failure"}, 24).summary());
  expect_footprint(b.process().pid(), before);
  const auto start = Clock::now();
  EXPECT_EQ(b.stop(), 0);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(1) + kSlack);
}

// The IPv6 address is there at once, and of no use; that of IPv4 comes when it is asked for again,
// after a second.
TEST_F(NetworkFault, AFamilyWithoutARouteIsNotTheLastWord) {
  loses_first_v4_ = true;
  auto a = start_a();
  auto b = start_b("service-a.test", a.port(), "--timeout=1.8s");
  expect_right_answer(b.port());
}

// All calls share a look-up: it must not end with the one that had it begun.
TEST_F(NetworkFault, ALookUpGoesOnForLaterCalls) {
  silent_ = true;
  auto a = start_a();
  auto b = start_b("service-a.test", a.port());
  auto early = begin_call(b);
  ASSERT_TRUE(eventually([&] { return server_->queries() > 0; }));
  std::this_thread::sleep_for(milliseconds(1'300));  // the question is asked each second
  EXPECT_EQ(early.get(), 503);
  silent_ = false;
  std::vector<std::future<int>> calls;
  for (int i = 0; i < 8; ++i) calls.push_back(begin_call(b));  // each loop has some
  for (auto& each : calls) EXPECT_EQ(each.get(), 200);
}

// No other answer will come, and no packet has been sent.
TEST_F(NetworkFault, WithoutARouteItIsUnreachableThoughTheNameServerHangs) {
  auto b = start_b("service-a.test", 9);
  expect_reason(b, "connection_refused");
  network_->ip("b", {"route", "add", "unreachable", std::string(Network::kAddressA) + "/32"});
  silent_ = true;
  expect_reason(b, "unreachable");
}

// glibc would do so after five seconds.
TEST_F(NetworkFault, ANameServerThatWasSilentIsAskedAgainAfterASecond) {
  silent_ = true;
  auto a = start_a();
  auto b = start_b("service-a.test", a.port(), "--timeout=3s");
  auto status = begin_call(b);
  ASSERT_TRUE(eventually([&] { return server_->queries() > 2; }));  // both families, and each apart
  silent_ = false;
  EXPECT_EQ(status.get(), 200);
}

// Connections to A are renewed every two seconds, so each caller needs an address again and again.
TEST_F(NetworkFault, ANameServerThatDiesUnderLoadFailsNoCall) {
  auto a = start_a();
  auto b = start_b("service-a.test", a.port());
  expect_right_answer(b.port());
  Callers callers({.port = b.port()});
  callers.wait_for_ok(100);

  const auto threads = thread_count(b.process().pid());
  const auto queries = server_->queries();
  silent_ = true;
  std::this_thread::sleep_for(std::chrono::seconds(10));  // shown is that nothing happens in them
  EXPECT_GT(server_->queries(), queries + 2);
  EXPECT_LE(thread_count(b.process().pid()), threads + 4);
  server_.reset();
  std::this_thread::sleep_for(std::chrono::seconds(3));
  callers.wait_for_ok(100);
  silent_ = false;
  start_name_server();
  EXPECT_TRUE(eventually([&] { return server_->queries() > 0; }));
  callers.wait_for_ok(100);
  const auto tally = callers.stop();
  report(tally.summary());
  expect_no_violation(tally);
}

// The old one is not the last word where the name server is far away.
TEST_F(NetworkFault, ANewAddressIsUsedByTheNextCall) {
  network_->ip("a", {"addr", "add", std::string(kOtherAddressA) + "/24", "dev", "wire"});
  auto a = start_a(Network::kAddressA);
  auto b = start_b("service-a.test", a.port());
  expect_right_answer(b.port());
  EXPECT_EQ(a.stop(), 0);
  auto moved = start_a(kOtherAddressA, a.port());
  moved_ = true;
  answers_after_ = milliseconds(150);
  expect_right_answer(b.port());
  answers_after_ = milliseconds(0);

  // Not known before the name server is back.
  silent_ = true;
  EXPECT_EQ(moved.stop(), 0);
  auto back = start_a(Network::kAddressA, a.port());
  moved_ = false;
  EXPECT_EQ(call(b).status, 503);
  silent_ = false;
  EXPECT_TRUE(eventually([&] { return call(b).status == 200; }));
}

// The look-up under way is waited for, but no further one, and not half of the budget.
TEST_F(NetworkFault, ASlowNameServerCostsARefusalOneLookUp) {
  auto a = start_a();
  auto b = start_b("service-a.test", a.port(), "--timeout=10s");
  expect_right_answer(b.port());
  EXPECT_EQ(a.stop(), 0);
  answers_after_ = milliseconds(100);
  const auto queries = server_->queries();
  const auto start = Clock::now();
  expect_reason(b, "connection_refused");
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(2));
  EXPECT_LE(server_->queries(), queries + 4);  // both families, and each apart
}

// A connection to a port of the range that local ends are taken from can meet itself, when nobody
// listens there (RFC 9293, section 3.5: simultaneous open). With a range this small it often does.
TEST_F(NetworkFault, ServiceBDoesNotTakeItselfForServiceA) {
  auto b = start_b("127.0.0.1", 40'000);
  Connection connection(b.port());  // made before, so that all of the range is for service-b
  network_->set("b", "ipv4/ip_local_port_range", "40000 40015");
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(connection.send(request_text("/call-echo?msg=one")));
    const auto response = connection.read_response();
    ASSERT_EQ(response.field("reason"), "connection_refused") << response.body << response.error;
  }
  // Nor does it leave the port in TIME_WAIT, where service-a could not listen.
  auto a = network_->start("b", kServiceA, {"--port=40000"});
  expect_right_answer(b.port());
}

// Its own shortage, and not the network's: "unreachable" would send people to the firewall.
TEST_F(NetworkFault, NoLocalPortLeftIsOverloaded) {
  FaultyUpstream upstream(mode_named("silent"));
  auto b = start_b("127.0.0.1", upstream.port(), "--timeout=60s");
  std::vector<Connection> callers;  // made before, so that all ports are for service-b
  for (int i = 0; i < 3; ++i) callers.emplace_back(b.port());
  network_->set("b", "ipv4/ip_local_port_range", "40000 40001");
  for (std::size_t i = 0; i < callers.size(); ++i) {
    ASSERT_TRUE(callers[i].send(request_text("/call-echo?msg=one")));
    const auto calls = std::min<std::size_t>(i + 1, 2);
    ASSERT_TRUE(eventually([&] { return upstream.requests().size() == calls; }));
  }
  const auto response = callers[2].read_response();
  EXPECT_EQ(response.field("reason"), "overloaded") << response.body << response.error;
  EXPECT_NE(response.field("error").find("no local port"), std::string::npos) << response.body;
}

}  // namespace
}  // namespace tests::chaos
