#include "common/metrics.hpp"

#include <dirent.h>
#include <prometheus/gauge.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <memory>

namespace common {
namespace {

// Fine enough for an echo on the loopback, coarse enough for a drain.
const prometheus::Histogram::BucketBoundaries kBuckets{
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1,    0.25,    0.5,    0.75,  1.0,    1.05,  2.5,  5.0,   10.0};

// OpenTelemetry, http.request.method: what is not known is _OTHER.
std::string_view known_method(const std::string& method) {
  constexpr std::array<std::string_view, 9> kKnown{"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                                   "OPTIONS", "CONNECT", "TRACE", "PATCH"};
  const auto* found = std::find(kKnown.begin(), kKnown.end(), method);
  return found == kKnown.end() ? "_OTHER" : *found;
}

std::optional<double> resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0;
  double resident = 0;
  if (!(statm >> total >> resident)) return std::nullopt;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::optional<double> cpu_seconds() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return std::nullopt;
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::optional<double> max_files() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return std::nullopt;
  return static_cast<double>(files.rlim_cur);
}

/// How many files are open. Keeps one for that: it must work where there is no other left, too.
class OpenFiles {
 public:
  std::optional<double> operator()() const {
    if (folder_ == nullptr) return std::nullopt;
    rewinddir(folder_.get());
    int count = -2;  // "." and ".."
    while (readdir(folder_.get()) != nullptr) ++count;
    return count;
  }

 private:
  std::shared_ptr<DIR> folder_{opendir("/proc/self/fd"), [](DIR* folder) {
                                 if (folder != nullptr) closedir(folder);
                               }};
};

}  // namespace

Metrics::Metrics()
    : server_requests_(prometheus::BuildHistogram()
                           .Name("http_server_request_duration_seconds")
                           .Help("Duration of answered HTTP requests.")
                           .Register(registry_)) {
  // The names every Prometheus client library uses for the process itself.
  add_counter("process_cpu_seconds_total", "User and system CPU time spent, in seconds.",
              cpu_seconds);
  add_gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident_bytes);
  add_gauge("process_open_fds", "Number of open file descriptors.", OpenFiles());
  add_gauge("process_max_fds", "Maximum number of open file descriptors.", max_files);
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  add_gauge("process_start_time_seconds", "Start time since the Unix epoch in seconds.",
            [now] { return now.count(); });
  prometheus::BuildGauge()
      .Name("build_info")
      .Help("Always 1; the version is a label.")
      .Register(registry_)
      .Add({{"version", PROJECT_VERSION}})
      .Set(1);
}

void Metrics::add_gauge(const std::string& name, const std::string& help, const Value& value) {
  values_.push_back({{name, help, prometheus::MetricType::Gauge, {{}}}, value});
}

void Metrics::add_counter(const std::string& name, const std::string& help, const Value& value) {
  values_.push_back({{name, help, prometheus::MetricType::Counter, {{}}}, value});
}

prometheus::Histogram& Metrics::server_histogram(const ServerKey& key) {
  const auto& [method, route, status] = key;
  const std::lock_guard lock(mutex_);
  auto& found = server_histograms_[key];
  if (found == nullptr) {
    std::map<std::string, std::string> labels{
        {"http_request_method", std::string(method)},
        {"http_response_status_code", std::to_string(status)}};
    // OpenTelemetry: no http.route where none matched.
    if (!route.empty()) labels.emplace("http_route", route);
    found = &server_requests_.Add(labels, kBuckets);
  }
  return *found;
}

void Metrics::expect_request(std::string_view route, int status) {
  server_histogram({"GET", route, status});
}

void Metrics::request(const http::Exchange& exchange) {
  server_histogram({known_method(exchange.method), exchange.route, exchange.status})
      .Observe(std::chrono::duration<double>(exchange.latency).count());
}

void Metrics::expect_upstream(const std::string& address, int port,
                              std::span<const std::string_view> error_types) {
  auto& calls = prometheus::BuildHistogram()
                    .Name("http_client_request_duration_seconds")
                    .Help("Duration of calls to the upstream service.")
                    .Register(registry_);
  std::map<std::string, std::string> labels{{"server_address", address},
                                            {"server_port", std::to_string(port)}};
  client_histograms_[""] = &calls.Add(labels, kBuckets);
  for (const auto error_type : error_types) {
    labels["error_type"] = error_type;
    client_histograms_[error_type] = &calls.Add(labels, kBuckets);
  }
}

void Metrics::upstream_call(std::string_view error_type, std::chrono::nanoseconds duration) {
  client_histograms_.at(error_type)->Observe(std::chrono::duration<double>(duration).count());
}

std::string Metrics::text() {
  auto families = registry_.Collect();
  const std::lock_guard lock(reading_);
  for (auto [family, read] : values_) {
    const auto value = read();
    if (!value) continue;
    family.metric.front().gauge.value = family.metric.front().counter.value = *value;
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace common
