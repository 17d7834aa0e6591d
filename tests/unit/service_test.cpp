#include "common/service.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace common {
namespace {

// Where --check asks a service that listens on an address.
TEST(OwnHosts, AreThatAddressOrTheLoopbackForAllOfThem) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> table{
      {"127.0.0.1", {"127.0.0.1"}},
      {"192.0.2.1", {"192.0.2.1"}},
      {"0.0.0.0", {"127.0.0.1"}},
      {"::", {"::1", "127.0.0.1"}},
      {"0:0:0:0:0:0:0:0", {"::1", "127.0.0.1"}},
      {"::1", {"::1"}},
      {"fe80::1%eth0", {"fe80::1%eth0"}},
      {"localhost", {"localhost"}}};
  for (const auto& [host, expected] : table) EXPECT_EQ(own_hosts(host), expected) << host;
}

}  // namespace
}  // namespace common
