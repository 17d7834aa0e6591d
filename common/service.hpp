#pragma once

#include <string>
#include <vector>

#include "common/http/server.hpp"
#include "common/log.hpp"
#include "common/metrics.hpp"
#include "common/options.hpp"

namespace common {

/// Raises the limit of open files as far as it goes, and lowers `options.max_connections` and
/// `upstream_calls` to what fits. Returns a sentence for the log where that is less.
std::string fit_to_file_limit(Options& options, int& upstream_calls);

/// Asks the one that runs at the address of `options` for its /health. Returns the exit code: 0 for
/// a 200, otherwise 1 after one line on stderr. Takes at most 2 s, whatever is there: then it ends
/// the process.
int check_health(const std::string& name, const Options& options);

/// The life of a service: log, metrics, the server with /health, /ready and /metrics, start, and
/// what happens at SIGTERM. Make one, add handlers to server(), then run(). The first thing of a
/// process: from here on SIGTERM and SIGINT are blocked in all its threads, and taken by run().
class Service {
 public:
  Service(const std::string& name, const Options& options);

  http::Server& server() { return server_; }
  Log& log() { return log_; }
  Metrics& metrics() { return metrics_; }

  /// Serves until SIGTERM or SIGINT, then drains. `configuration`: further fields of the start
  /// line. Returns the exit code.
  int run(const std::vector<LogField>& configuration);

 private:
  void drain();

  const std::string name_;
  const Options options_;
  Log log_;
  Metrics metrics_;
  http::Server server_;
};

}  // namespace common
