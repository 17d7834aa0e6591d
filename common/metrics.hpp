#pragma once

#include <prometheus/collectable.h>
#include <prometheus/registry.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>

#include "common/http/exchange.hpp"

namespace common {

/// The numbers behind /metrics, under OpenTelemetry's names in Prometheus form. Labels are bounded:
/// registered paths, known methods, status codes and failure words, never what a client has sent.
/// Thread-safe, once the gauges are added.
class Metrics {
 public:
  Metrics();

  /// A gauge whose value is asked for at each scrape.
  void add_gauge(const std::string& name, const std::string& help, std::function<double()> value);

  /// http_server_request_duration_seconds
  void request(const http::Exchange& exchange);

  /// http_client_request_duration_seconds; `error_type` is empty on success.
  void upstream_call(const std::string& address, int port, std::string_view error_type,
                     std::chrono::nanoseconds duration);

  /// Prometheus text format 0.0.4.
  std::string text() const;

 private:
  using ServerKey = std::tuple<std::string_view, std::string_view, int>;

  prometheus::Registry registry_;
  prometheus::Family<prometheus::Histogram>& server_requests_;
  prometheus::Family<prometheus::Histogram>* client_requests_ = nullptr;
  std::vector<std::shared_ptr<prometheus::Collectable>> gauges_;

  // Finding a histogram by its labels costs more than observing: remembered by what identifies it.
  std::mutex mutex_;
  std::map<ServerKey, prometheus::Histogram*> server_histograms_;
  std::map<std::string, prometheus::Histogram*, std::less<>> client_histograms_;
};

}  // namespace common
