#pragma once

#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "common/http/exchange.hpp"

namespace common {

/// The numbers behind /metrics, under OpenTelemetry's names in Prometheus form. Labels are bounded:
/// registered paths, known methods, status codes and failure words, never what a client has sent.
/// Thread-safe, once the values and the upstream are added.
class Metrics {
 public:
  Metrics();

  /// Asked for at each scrape; nothing: the value can't be read now, and is absent.
  using Value = std::function<std::optional<double>()>;
  void add_gauge(const std::string& name, const std::string& help, const Value& value);
  void add_counter(const std::string& name, const std::string& help, const Value& value);

  /// Makes the series of GET `route` answered with `status` start at 0, so that a rate sees its
  /// first event too. REQUIRES: `route` outlives this.
  void expect_request(std::string_view route, int status);
  /// The same for calls to `address`, for success and for each of `error_types`. Once, before the
  /// first upstream_call().
  void expect_upstream(const std::string& address, int port,
                       std::span<const std::string_view> error_types);

  /// http_server_request_duration_seconds
  void request(const http::Exchange& exchange);

  /// http_client_request_duration_seconds; `error_type` is empty on success, or an expected one.
  void upstream_call(std::string_view error_type, std::chrono::nanoseconds duration);

  /// Prometheus text format 0.0.4.
  std::string text();

 private:
  using ServerKey = std::tuple<std::string_view, std::string_view, int>;

  prometheus::Registry registry_;
  prometheus::Family<prometheus::Histogram>& server_requests_;
  std::vector<std::pair<prometheus::MetricFamily, Value>> values_;
  std::mutex reading_;  // one at a time calls the functions of values_

  prometheus::Histogram& server_histogram(const ServerKey& key);

  // Finding a histogram by its labels costs more than observing: remembered by what identifies it.
  std::mutex mutex_;  // guards server_histograms_
  std::map<ServerKey, prometheus::Histogram*> server_histograms_;
  std::map<std::string_view, prometheus::Histogram*>
      client_histograms_;  // not changed after the start
};

}  // namespace common
