#include "common/http/resolver.hpp"

#include <gmock/gmock.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/eventually.hpp"
#include "support/name_server.hpp"
#include "support/process.hpp"
#include "unit/no_threads.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;
using testing::Contains;
using testing::UnorderedElementsAre;
using testing::Value;
using tests::NameServer;
using tests::PrivateEtc;
using Addresses = std::vector<std::string>;

constexpr std::uint16_t kPort = 8080;
const std::string kName = "service-a.test";
// Far above what 25 or 50 ms become on a busy machine, far below a time-out of getaddrinfo(3).
constexpr auto kSoon = 800ms;

std::string text_of(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  getnameinfo(address, size, host.data(), host.size(), port.data(), port.size(),
              NI_NUMERICHOST | NI_NUMERICSERV);
  EXPECT_EQ(port.data(), std::to_string(kPort));
  return host.data();
}

Addresses texts_of(const Resolution& found) {
  Addresses texts;
  for (const auto& each : found.addresses) {
    texts.push_back(text_of(reinterpret_cast<const sockaddr*>(&each.storage), each.size));
  }
  EXPECT_NE(found.addresses.empty(), found.error.empty()) << found.error;
  return texts;
}

std::future<Resolution> start(Resolver& resolver) {
  auto promise = std::make_shared<std::promise<Resolution>>();
  auto result = promise->get_future();
  resolver.resolve([promise](const Resolution& found) { promise->set_value(found); });
  return result;
}

// What was found in time.
std::optional<Addresses> resolve(Resolver& resolver, std::chrono::milliseconds limit = 20s) {
  auto result = start(resolver);
  if (result.wait_for(limit) != std::future_status::ready) return std::nullopt;
  return texts_of(result.get());
}

// What the machine says, however long it takes.
Addresses get_addresses(const std::string& host, int family = AF_UNSPEC) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(kPort).c_str(), &hints, &list) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  Addresses texts;
  for (; list != nullptr; list = list->ai_next) {
    texts.push_back(text_of(list->ai_addr, list->ai_addrlen));
  }
  return texts;
}

// What a name server does with a question. A domain that is no word is one that does not exist.
std::string respond(const std::string& query, const std::string& how, const Addresses& addresses) {
  static const std::map<std::string, char> codes{{"nodata", '\0'},
                                                 {"servfail", tests::kServFail},
                                                 {"refused", tests::kRefused},
                                                 {"notimp", tests::kNotImp}};
  if (how == "silence") return {};
  if (how == "answer") return tests::address_answer(query, addresses);
  const auto code = codes.find(how);
  return tests::answer_to(query, code != codes.end() ? code->second : tests::kNxDomain);
}

// A name server that answers both kinds of questions as it is told.
class Names {
 public:
  void set(const std::string& v4, const std::string& v6, Addresses addresses = {}) {
    const std::lock_guard lock(mutex_);
    v4_ = v4;
    v6_ = v6;
    addresses_ = std::move(addresses);
  }
  int queries() const { return server_.queries(); }

 private:
  std::mutex mutex_;
  std::string v4_ = "silence";
  std::string v6_ = "silence";
  Addresses addresses_;
  const NameServer server_{[this](const std::string& query) {
                             const std::lock_guard lock(mutex_);
                             const auto [name, is_v6] = tests::question_of(query);
                             const auto& how = is_v6 ? v6_ : v4_;
                             return respond(query, name == kName ? how : "nxdomain", addresses_);
                           },
                           53};
};

// The machine waits a second for an answer, and asks twice.
const std::string kTwice = "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n";

#define IN_PRIVATE_NETWORK(...) \
  if (const auto why = tests::in_private_network(__VA_ARGS__)) GTEST_SKIP() << *why

TEST(Resolver, TakesIpAddressesAsTheyAre) {
  for (const auto& [host, text] : {std::pair{"127.0.0.1", "127.0.0.1"},
                                   {"::1", "::1"},
                                   {"0.0.0.0", "0.0.0.0"},
                                   {"fe80::1", "fe80::1"}}) {
    Resolver resolver(host, kPort);
    ASSERT_TRUE(resolver.literal()) << host;
    EXPECT_EQ(texts_of(*resolver.literal()), Addresses{text});
    EXPECT_EQ(resolve(resolver), Addresses{text});
  }
  EXPECT_FALSE(Resolver("127.0.0.1.test", kPort).literal());
  Resolver with_zone("fe80::1%lo", kPort);
  EXPECT_EQ(resolve(with_zone), Addresses{"fe80::1%lo"});
}

// How both kinds of addresses are answered, where the name is looked for, and how it is written.
TEST(Resolver, FindsWhatGetaddrinfoFinds) {
  const std::vector<std::string> kinds{"answer",  "nxdomain", "servfail",
                                       "refused", "notimp",   "silence"};
  const std::vector<std::string> configurations{
      "",
      "search corp.test\n",
      "search servfail.test corp.test\n",
      "search nodata.test refused.test nxdomain.test notimp.test corp.test\n",
      "search silence.test corp.test\n",
      "search . -.test CORP.Test. " + std::string(70, 'x') + ".test\noptions ndots:3\n"};
  // "nxdomain-answer.corp.test" has an AAAA alone, "x.servfail.test" is "x" in a domain that fails.
  const auto make_answer = [](const std::string& query) {
    const auto [name, is_v6] = tests::question_of(query);
    const auto host = name.substr(0, name.find('.'));
    const auto domain = name.substr(std::min(name.size(), host.size() + 1));
    if (domain == "corp.test") {
      const auto dash = host.find('-');
      return respond(query, is_v6 ? host.substr(dash + 1) : host.substr(0, dash),
                     {"127.0.0.2", "127.0.0.3", "fd00::2"});
    }
    return respond(query, domain.substr(0, domain.find('.')), {});
  };
  IN_PRIVATE_NETWORK([&](const PrivateEtc& etc) {
    const NameServer server(make_answer, 53);
    std::atomic<int> found = 0;
    std::atomic<int> not_found = 0;
    const auto compare = [&](const std::string& name, const std::string& configuration) {
      Addresses expected;
      std::optional<Addresses> seen;
      const auto same = [&] {
        Resolver resolver(name, kPort);
        auto result = start(resolver);
        expected = get_addresses(name);
        for (const int family : {AF_INET, AF_INET6}) {
          // getaddrinfo(3) gives up on both where one is not answered in the end.
          if (expected.empty() && name.find("silence") != std::string::npos) {
            expected = get_addresses(name, family);
          }
        }
        // Where the machine has found nothing, this may have no answer yet.
        const bool ready = result.wait_for(expected.empty() ? 0s : 5s) == std::future_status::ready;
        seen = ready ? std::optional(texts_of(result.get())) : std::nullopt;
        // In its order as well, but where both kinds were asked for apart.
        return seen.value_or(Addresses{}) == expected;
      };
      EXPECT_TRUE(tests::eventually(same, 2s))  // a busy machine may be late once
          << name << ", \"" << configuration << "\": " << testing::PrintToString(seen)
          << ", and getaddrinfo: " << testing::PrintToString(expected);
      ++(expected.empty() ? not_found : found);
    };
    for (const auto& configuration : configurations) {
      etc.set("resolv.conf",
              "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n" + configuration);
      std::vector<std::future<void>> slow;
      for (const auto& v4 : kinds) {
        for (const auto& v6 : kinds) {
          for (const std::string domain : {"", ".corp.test", ".corp.test."}) {
            const auto name = v4 + "-" + v6 + domain;
            if ((name + configuration).find("silence") == std::string::npos) {
              compare(name, configuration);
            } else {
              slow.push_back(std::async(std::launch::async, compare, name, configuration));
            }
          }
        }
      }
    }
    EXPECT_GT(found, 100);
    EXPECT_GT(not_found, 200);
  });
}

TEST(Resolver, AKindOfAddressesThatIsNotAnsweredCostsLittle) {
  IN_PRIVATE_NETWORK([](const PrivateEtc&) {
    Names names;
    for (const bool v4 : {true, false}) {
      Resolver resolver(kName, kPort);
      // The look-up for both goes on for 15 s, and hides no change.
      for (const auto& both : {Addresses{"127.0.0.2", "fd00::2"}, {"127.0.0.3", "fd00::3"}}) {
        names.set(v4 ? "answer" : "silence", v4 ? "silence" : "answer", both);
        EXPECT_EQ(resolve(resolver, kSoon), Addresses{both[v4 ? 0 : 1]});
      }
    }
  });
}

TEST(Resolver, KeepsTheLastAddressesAndTakesNewOnes) {
  IN_PRIVATE_NETWORK([](const PrivateEtc& etc) {
    etc.set("resolv.conf", kTwice);
    Names names;
    names.set("nxdomain", "nxdomain");
    Resolver resolver(kName, kPort);
    EXPECT_EQ(resolve(resolver), Addresses{});
    int number = 2;
    for (const std::string failure : {"nxdomain", "servfail", "refused", "nodata", "silence"}) {
      const Addresses before{"127.0.0." + std::to_string(++number)};
      names.set("answer", "answer", before);
      EXPECT_EQ(resolve(resolver), before) << failure;
      names.set(failure, failure);
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < 20; ++i) EXPECT_EQ(resolve(resolver), before) << failure;
      // Only the first of them waits, some 50 ms.
      EXPECT_LT(std::chrono::steady_clock::now() - begin, kSoon) << failure;
    }
    // The look-ups that were not answered are under way still, and ask again.
    const Addresses after{"127.0.0.9"};
    names.set("answer", "answer", after);
    EXPECT_TRUE(tests::eventually([&] { return resolve(resolver, kSoon) == after; }));
  });
}

// A firewall that begins to drop one kind of answers takes no addresses away.
TEST(Resolver, KeepsTheAddressesOfAFamilyWhoseAnswersAreLost) {
  IN_PRIVATE_NETWORK([](const PrivateEtc& etc) {
    etc.set("resolv.conf", kTwice + "search test\n");
    Names names;
    names.set("answer", "answer", {"127.0.0.3", "fd00::3"});
    Resolver resolver("service-a", kPort);
    EXPECT_THAT(resolve(resolver).value(), UnorderedElementsAre("127.0.0.3", "fd00::3"));
    names.set("silence", "answer", {"fd00::4"});
    const Addresses mixed{"127.0.0.3", "fd00::4"};
    EXPECT_TRUE(tests::eventually([&] { return resolve(resolver, kSoon) == mixed; }));
    // getaddrinfo(3) ends these look-ups with the other family alone.
    for (const std::string failure : {"silence", "servfail", "refused", "notimp"}) {
      names.set("answer", failure, {"127.0.0.4"});
      const auto lost = [&] {
        return !Value(resolve(resolver, kSoon).value(), Contains("fd00::4"));
      };
      EXPECT_FALSE(tests::eventually(lost, failure == "silence" ? 3s : 0s)) << failure;
    }
    // It is no more.
    Resolver other("service-a", kPort);
    names.set("answer", "answer", {"127.0.0.4", "fd00::4"});
    EXPECT_THAT(resolve(other).value(), UnorderedElementsAre("127.0.0.4", "fd00::4"));
    names.set("answer", "nodata", {"127.0.0.5"});
    EXPECT_TRUE(tests::eventually([&] { return resolve(other) == Addresses{"127.0.0.5"}; }, 1s));
  });
}

TEST(Resolver, TakesNoOldAnswerThatComesLateForANewOne) {
  IN_PRIVATE_NETWORK([](const PrivateEtc&) {
    const Addresses before{"127.0.0.2"};
    const Addresses after{"127.0.0.3"};
    std::atomic<bool> moved = false;
    const NameServer server(
        [&](const std::string& query) {
          const auto addresses = moved ? after : before;
          const bool is_v6 = tests::question_of(query).is_v6;
          std::this_thread::sleep_for(is_v6 ? 300ms : 40ms);  // a look-up for both waits for it
          return respond(query, is_v6 ? "nodata" : "answer", addresses);
        },
        53);
    Resolver resolver(kName, kPort);
    EXPECT_EQ(resolve(resolver), before);
    moved = true;
    EXPECT_TRUE(tests::eventually([&] { return resolve(resolver, kSoon) == after; }));
    EXPECT_FALSE(tests::eventually([&] { return resolve(resolver, kSoon) != after; }, 600ms));
  });
}

// The old address is not all that there is, though the name has none of its kind any more.
TEST(Resolver, SaysThatTheOtherFamilyMayComeInPlaceOfTheOneThatIsNoMore) {
  IN_PRIVATE_NETWORK([](const PrivateEtc&) {
    std::atomic<bool> moved = false;
    const NameServer server(
        [&](const std::string& query) {
          const bool is_v6 = tests::question_of(query).is_v6;
          if (moved && is_v6) std::this_thread::sleep_for(300ms);
          return respond(query, moved == is_v6 ? "answer" : "nodata", {"127.0.0.2", "fd00::2"});
        },
        53);
    Resolver resolver(kName, kPort);
    EXPECT_EQ(resolve(resolver), Addresses{"127.0.0.2"});
    moved = true;
    const auto found = start(resolver).get();
    EXPECT_EQ(texts_of(found), Addresses{"127.0.0.2"});
    EXPECT_FALSE(found.current);
    EXPECT_TRUE(tests::eventually([&] { return resolver.latest(found).current; }));
    EXPECT_EQ(texts_of(resolver.latest(found)), Addresses{"fd00::2"});
  });
}

// A name server that goes away in the middle of an answer over TCP is waited for without end. Here
// it is twenty seconds.
TEST(Resolver, GivesUpALookUpThatHangs) {
  IN_PRIVATE_NETWORK([](const PrivateEtc& etc) {
    etc.set("resolv.conf", "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n");
    Names names;
    Resolver resolver(kName, kPort, 100ms);
    EXPECT_EQ(resolve(resolver), Addresses{});
    const Addresses address{"127.0.0.2"};
    names.set("answer", "answer", address);
    EXPECT_TRUE(tests::eventually([&] { return resolve(resolver, kSoon) == address; }, 10s));
  });
}

TEST(Resolver, ItsEndWaitsForNoLookUpAndNobodyIsCalledAfterwards) {
  IN_PRIVATE_NETWORK([](const PrivateEtc& etc) {
    etc.set("resolv.conf", kTwice);
    const Names silent;
    const auto before = tests::thread_count(getpid());
    const auto begin = std::chrono::steady_clock::now();
    int calls = 0;
    {
      Resolver resolver(kName, kPort);
      resolver.resolve([&](const Resolution&) { ++calls; });
      EXPECT_TRUE(tests::eventually([&] { return silent.queries() > 0; }));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, kSoon);
    EXPECT_TRUE(tests::eventually([&] { return tests::thread_count(getpid()) <= before; }));
    EXPECT_EQ(calls, 0);
  });
}

// `done` may use what is destroyed after the resolver.
TEST(Resolver, ItsEndWaitsForWhomItCalls) {
  for (int i = 0; i < 50; ++i) {
    std::atomic<int> begun = 0;
    std::atomic<int> ended = 0;
    {
      Resolver resolver("localhost", kPort);
      resolver.resolve([&](const Resolution&) {
        ++begun;
        std::this_thread::sleep_for(1ms);
        ++ended;
      });
      std::this_thread::sleep_for(std::chrono::microseconds(20 * i));
    }
    EXPECT_EQ(begun, ended);
  }
}

#if !defined(__SANITIZE_ADDRESS__)  // whose checks of types need files themselves
TEST(Resolver, WantOfFilesIsAFailedLookUp) {
  Resolver resolver(kName, kPort);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto found = start(resolver).get();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(found.overloaded) << found.error;
  EXPECT_EQ(found.error, "Too many open files");
}
#endif

TEST(Resolver, WantOfThreadsIsAFailedLookUp) {
  Resolver resolver("localhost", kPort);
  for (const bool found_before : {false, true}) {
    if (found_before) {
      EXPECT_NE(resolve(resolver), Addresses{});
    }
    const tests::NoThreads none;
    const auto found = start(resolver).get();
    EXPECT_EQ(!found.addresses.empty(), found_before);
    EXPECT_EQ(found.overloaded, !found_before);
  }
}

}  // namespace
}  // namespace common::http
