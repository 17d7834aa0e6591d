#include "common/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <sstream>
#include <string>

namespace common {
namespace {

using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

std::set<std::string> series(const std::string& text, const std::string& name) {
  std::set<std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name)) out.insert(line.substr(0, line.rfind(' ')));
  }
  return out;
}

http::Exchange exchange(const std::string& method, std::string_view route, int status) {
  http::Exchange out;
  out.method = method;
  out.endpoint = "/as/sent/by/the/client";
  out.route = route;
  out.status = status;
  out.latency = 300us;
  return out;
}

constexpr auto kCount = "http_server_request_duration_seconds_count";

TEST(Metrics, CountRequestsByMethodRouteAndStatus) {
  Metrics metrics;
  metrics.request(exchange("GET", "/echo", 200));
  metrics.request(exchange("GET", "/echo", 200));
  const auto text = metrics.text();
  EXPECT_THAT(text, HasSubstr("# TYPE http_server_request_duration_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("http_server_request_duration_seconds_count{"
                              "http_request_method=\"GET\",http_response_status_code=\"200\","
                              "http_route=\"/echo\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("le=\"0.0001\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("le=\"0.0005\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("le=\"10\"} 2\n"));
}

TEST(Metrics, HaveNoRouteWhereNoneMatched) {
  Metrics metrics;
  metrics.request(exchange("GET", "", 404));
  EXPECT_THAT(metrics.text(), Not(HasSubstr("http_route=")));
  EXPECT_EQ(series(metrics.text(), kCount).size(), 1u);
}

TEST(Metrics, AreBoundedWhateverTheClientsSend) {
  Metrics metrics;
  for (int i = 0; i < 1'000; ++i) {
    metrics.request(exchange("BREW" + std::to_string(i), "", 405));
    metrics.request(exchange("get\"\n" + std::to_string(i), "", 405));
  }
  metrics.request(exchange("", "", 400));
  const auto text = metrics.text();
  EXPECT_EQ(series(text, kCount).size(), 2u);
  EXPECT_THAT(text, HasSubstr("http_request_method=\"_OTHER\""));
  EXPECT_THAT(text, Not(HasSubstr("BREW")));
  EXPECT_THAT(text, Not(HasSubstr("/as/sent")));
}

TEST(Metrics, CountUpstreamCallsByReason) {
  Metrics metrics;
  EXPECT_THAT(metrics.text(), Not(HasSubstr("http_client_")));
  constexpr std::array<std::string_view, 2> kReasons{"timeout", "bad_status"};
  metrics.expect_upstream("a", 8080, kReasons);
  metrics.upstream_call("", 1ms);
  metrics.upstream_call("timeout", 1s);
  metrics.upstream_call("timeout", 1s);
  const auto text = metrics.text();
  EXPECT_THAT(text, HasSubstr("http_client_request_duration_seconds_count{"
                              "server_address=\"a\",server_port=\"8080\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("http_client_request_duration_seconds_count{error_type=\"timeout\","
                              "server_address=\"a\",server_port=\"8080\"} 2\n"));
  // A reason that has not happened yet is there all the same: a rate needs the step from 0.
  EXPECT_THAT(text,
              HasSubstr("http_client_request_duration_seconds_count{error_type=\"bad_status\","
                        "server_address=\"a\",server_port=\"8080\"} 0\n"));
}

TEST(Metrics, TellOfTheProcess) {
  Metrics metrics;
  metrics.add_gauge("http_server_active_requests", "Requests under way.", [] { return 7.0; });
  const auto text = metrics.text();
  for (const char* name : {"process_cpu_seconds_total ", "process_resident_memory_bytes ",
                           "process_open_fds ", "process_max_fds ", "process_start_time_seconds ",
                           "build_info{version=\"", "http_server_active_requests 7\n"}) {
    EXPECT_THAT(text, HasSubstr(name));
  }
}

}  // namespace
}  // namespace common
