#pragma once

#include <string>
#include <vector>

#include "common/http/server.hpp"
#include "common/log.hpp"
#include "common/metrics.hpp"
#include "common/options.hpp"

namespace common {

/// To be called first in a process, while it has one thread. Descriptors 0 to 2 that are closed
/// become /dev/null, or the next sockets would take their places and get what is printed. The stop
/// signals (SIGTERM, SIGINT, SIGHUP) are blocked for Service::run() to take. Name servers are asked
/// again each second, unless RES_OPTIONS says otherwise.
void prepare_process();

/// Raises the limit of open files as far as it goes, and lowers `options.max_connections` and
/// `upstream_calls` to what fits. Returns a sentence for the log where that is less.
std::string fit_to_file_limit(Options& options, int& upstream_calls);

/// Where a service that listens on `host` can be reached from its own machine; to be tried in
/// order.
std::vector<std::string> own_hosts(const std::string& host);

/// Asks the one that runs at the address of `options` for its /health. Returns the exit code: 0 for
/// a 200, otherwise 1 after one line on stderr. Takes at most 2 s, whatever is there: then it ends
/// the process.
int check_health(const std::string& name, const Options& options);

/// The life of a service: log, metrics, the server with /health, /ready and /metrics, start, and
/// what happens at a stop signal. Make one, add handlers to server(), then run().
/// REQUIRES: prepare_process().
class Service {
 public:
  Service(const std::string& name, const Options& options);

  http::Server& server() { return server_; }
  Log& log() { return log_; }
  Metrics& metrics() { return metrics_; }

  /// Serves until a stop signal, then drains. `configuration`: further fields of the start
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
