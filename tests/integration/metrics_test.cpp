#include <map>
#include <regex>
#include <set>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

struct Metrics {
  std::map<std::string, std::string> types;  // of each family
  std::map<std::string, double> series;      // as they are written: name{label="value",...}
};

// Text format 0.0.4: the type of a family once and before its samples, no sample twice. Whether
// promtool has more to say, prometheus_test.cpp shows.
Metrics parse(const std::string& text) {
  static const std::regex comment(R"(# (HELP|TYPE) ([a-z_]+) (.+))");
  static const std::regex form(R"re(([a-z_]+(?:\{(?:[a-z_]+="[^"\\]*",?)+\})?) (\S+))re");
  Metrics result;
  std::string family;
  EXPECT_TRUE(text.ends_with("\n"));
  for (const auto& line : split(text.substr(0, text.size() - 1), '\n')) {
    std::smatch match;
    if (std::regex_match(line, match, comment)) {
      family = match[2];
      EXPECT_TRUE(match[1] == "HELP" || result.types.emplace(family, match[3]).second) << line;
    } else if (std::regex_match(line, match, form) && line.starts_with(family)) {
      EXPECT_TRUE(result.types.contains(family)) << line;
      EXPECT_TRUE(result.series.emplace(match[1], std::stod(match[2])).second) << line;
    } else {
      ADD_FAILURE() << "not a sample of " << family << ": " << line;
    }
  }
  return result;
}

Metrics scrape(const Service& service) { return parse(metrics_of(service.port())); }

// 0 where there is no such series.
double count(const Metrics& metrics, const std::string& series) {
  const auto found = metrics.series.find(series);
  return found == metrics.series.end() ? 0 : found->second;
}

const std::string kServer = "http_server_request_duration_seconds";
const std::string kClient = "http_client_request_duration_seconds";

std::string labels(const std::string& method, const std::string& route, int status) {
  return "http_request_method=\"" + method + "\",http_response_status_code=\"" +
         std::to_string(status) + (route.empty() ? "" : "\",http_route=\"" + route) + "\"";
}

double served(const Metrics& metrics, const std::string& method, const std::string& route,
              int status) {
  return count(metrics, kServer + "_count{" + labels(method, route, status) + "}");
}

// Of all series of that name together.
double total(const Metrics& metrics, const std::string& name) {
  double all = 0;
  for (const auto& [series, value] : metrics.series) {
    all += series.starts_with(name + "{") ? value : 0;
  }
  return all;
}

TEST(MetricsOfA, CountWhatWasAnswered) {
  const auto a = start_a({"--delay=30ms"});
  for (int i = 0; i < 3; ++i) get(a.port(), "/echo?msg=hello");
  get(a.port(), "/echo?msg=%FF");
  get(a.port(), "/%65cho");  // the same route, written in another way
  for (const std::string method : {"HEAD", "POST", "BREW"})
    get(a.port(), "/health", {}, 5s, method);
  get(a.port(), "/nope");
  get(a.port(), "/health", {{"Bad Name", "x"}});
  const auto metrics = scrape(a);
  EXPECT_EQ(served(metrics, "GET", "/echo", 200), 4);
  const auto echo = labels("GET", "/echo", 200);
  EXPECT_GE(count(metrics, kServer + "_sum{" + echo + "}"), 4 * 0.03);
  for (const auto& [bound, expected] :
       std::map<std::string, double>{{"0.0001", 0}, {"0.025", 0}, {"10", 4}, {"+Inf", 4}}) {
    const auto bucket = metrics.series.find(kServer + "_bucket{" + echo + ",le=\"" + bound + "\"}");
    ASSERT_NE(bucket, metrics.series.end()) << bound;
    EXPECT_EQ(bucket->second, expected) << bound;
  }
  EXPECT_EQ(served(metrics, "GET", "/echo", 400), 1);
  EXPECT_EQ(served(metrics, "HEAD", "/health", 200), 1);
  EXPECT_EQ(served(metrics, "POST", "/health", 405), 1);
  EXPECT_EQ(served(metrics, "_OTHER", "/health", 405), 1);
  EXPECT_EQ(served(metrics, "GET", "", 404), 1);
  EXPECT_EQ(total(metrics, kServer + "_count"), 10);
  EXPECT_EQ(served(metrics, "GET", "/metrics", 200), 0);  // not counted before it is answered
  EXPECT_EQ(served(scrape(a), "GET", "/metrics", 200), 1);
  EXPECT_FALSE(metrics.types.contains(kClient));
}

TEST(MetricsOfA, HaveTheirTypesAndDescribeTheProcess) {
  auto a = start_a();
  const auto result = get(a.port(), "/metrics");
  EXPECT_EQ(result.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(result.header("cache-control"), "no-store");
  const auto metrics = parse(result.body);
  const std::map<std::string, std::string> expected{{kServer, "histogram"},
                                                    {"http_server_active_requests", "gauge"},
                                                    {"http_server_max_connections", "gauge"},
                                                    {"http_server_open_connections", "gauge"},
                                                    {"build_info", "gauge"},
                                                    {"process_cpu_seconds_total", "counter"},
                                                    {"log_lines_dropped_total", "counter"},
                                                    {"process_resident_memory_bytes", "gauge"},
                                                    {"process_open_fds", "gauge"},
                                                    {"process_max_fds", "gauge"},
                                                    {"process_start_time_seconds", "gauge"}};
  EXPECT_EQ(metrics.types, expected);
  const auto version = value(start_line(a), "version");
  EXPECT_EQ(count(metrics, "build_info{version=\"" + version + "\"}"), 1);
  EXPECT_NEAR(count(metrics, "process_open_fds"),
              static_cast<double>(open_files(a.process().pid())), 2);
  EXPECT_GT(count(metrics, "process_max_fds"), 100);
  EXPECT_GT(count(metrics, "process_resident_memory_bytes"), 1e6);
  EXPECT_NEAR(count(metrics, "process_start_time_seconds"), static_cast<double>(std::time(nullptr)),
              120);
}

TEST(MetricsOfA, CountConnectionsAndRequestsUnderWay) {
  const auto a = start_a({"--delay=60s"});
  EXPECT_EQ(count(scrape(a), "http_server_active_requests"), 1);  // the scrape itself
  auto idle = connect_and_send(a.port(), 3, "");
  const auto waiting = connect_and_send(a.port(), 2, request_text("/echo"));
  EXPECT_TRUE(eventually([&] {
    const auto metrics = scrape(a);
    return count(metrics, "http_server_open_connections") == 6 &&
           count(metrics, "http_server_active_requests") == 3;
  }));
  idle.clear();
  EXPECT_TRUE(eventually([&] { return count(scrape(a), "http_server_open_connections") == 3; }));
}

TEST(MetricsOfB, NameTheReasonOfEachFailedCallAndNoneOfASuccess) {
  FaultyUpstream upstream(right_mode());
  const auto b = start_b(upstream.url(), {"--timeout=100ms"});
  const auto labels_of = [&](const std::string& error_type) {
    return "{" + (error_type.empty() ? "" : "error_type=\"" + error_type + "\",") +
           "server_address=\"127.0.0.1\",server_port=\"" + std::to_string(upstream.port()) + "\"}";
  };
  EXPECT_EQ(total(scrape(b), kClient + "_count"), 0);
  get(b.port(), kCall);
  get(b.port(), kCall);
  get(b.port(), "/call-echo?msg=%FF");  // no call
  const std::vector<std::pair<std::string, std::string>> failures{
      {"silent", "timeout"},
      {"close-after-request", "connection_closed"},
      {"status-500", "bad_status"},
      {"not-json", "bad_response"}};
  for (const auto& [mode, reason] : failures) {
    upstream.set_mode(mode_named(mode));
    get(b.port(), kCall);
  }
  const auto metrics = scrape(b);
  EXPECT_EQ(metrics.types.at(kClient), "histogram");
  EXPECT_EQ(metrics.types.at("http_client_active_requests"), "gauge");
  EXPECT_EQ(count(metrics, kClient + "_count" + labels_of("")), 2);
  for (const auto& [mode, reason] : failures) {
    EXPECT_EQ(count(metrics, kClient + "_count" + labels_of(reason)), 1) << reason;
  }
  EXPECT_EQ(total(metrics, kClient + "_count"), 6);
  EXPECT_GE(count(metrics, kClient + "_sum" + labels_of("timeout")), 0.1);
  EXPECT_EQ(served(metrics, "GET", "/call-echo", 200), 2);
  EXPECT_EQ(served(metrics, "GET", "/call-echo", 400), 1);
  EXPECT_EQ(served(metrics, "GET", "/call-echo", 503), 4);
}

TEST(MetricsOfB, CountTheCallsUnderWay) {
  FaultyUpstream upstream(mode_named("silent"));
  const auto b = start_b(upstream.url(), {"--timeout=60s", "--max-upstream-calls=2"});
  EXPECT_EQ(count(scrape(b), "http_client_active_requests"), 0);
  const auto waiting = connect_and_send(b.port(), 2, request_text(kCall));
  EXPECT_TRUE(eventually([&] { return upstream.requests().size() == 2; }));
  get(b.port(), kCall);  // overloaded: neither under way before nor after
  const auto metrics = scrape(b);
  EXPECT_EQ(count(metrics, "http_client_active_requests"), 2);
  EXPECT_EQ(count(metrics, "http_server_active_requests"), 3);
}

TEST(MetricsOfB, HoldNothingThatAClientHasSent) {
  FaultyUpstream upstream(random_mode(), {.seed = 7});
  const auto b = start_b(upstream.url(), {"--timeout=20ms"});
  const std::string mark = "zzMarkzz";
  for (int i = 0; i < 20; ++i) {
    get(b.port(), "/" + mark + std::to_string(i));
    get(b.port(), "/call-echo?msg=" + mark + std::to_string(i),
        {{"X-Request-ID", mark}, {"User-Agent", mark}});
    get(b.port(), "/health", {}, 5s, mark + std::to_string(i));
  }
  Connection junk(b.port());
  ask(junk, "GET /health HTTP/1.1\r\nHost: " + mark + "\r\n\r\n");
  ask(junk, mark + "\r\n\r\n");
  const auto text = metrics_of(b.port());
  const auto metrics = parse(text);
  EXPECT_EQ(total(metrics, kServer + "_count"), 62);
  EXPECT_EQ(text.find(mark), std::string::npos);
  EXPECT_EQ(
      all_of(text, "([a-z_]+)=\""),
      (std::set<std::string>{"http_request_method", "http_route", "http_response_status_code",
                             "server_address", "server_port", "error_type", "le", "version"}));
}

}  // namespace
}  // namespace tests
