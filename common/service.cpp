#include "common/service.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "common/json.hpp"
#include "common/systemd.hpp"

namespace common {
namespace {

using namespace std::chrono_literals;

// stdio, epoll, eventfds, the listener, the manager's socket, /proc for /metrics, name servers.
constexpr int kOwnFiles = 24;
constexpr unsigned kMaxThreads = 4;  // more than there are cores would only add switches

http::ServerOptions server_options(const Options& options) {
  return {.host = options.host,
          .port = options.port,
          .admin_port = std::nullopt,
          .threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads),
          .max_connections = static_cast<std::size_t>(options.max_connections),
          .max_over_limit = static_cast<std::size_t>(options.max_surplus)};
}

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Before any thread starts, so that all inherit it: the signals are taken by run() alone.
std::string block_signals(const std::string& name) {
  const auto signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a reader of our log that ends must not end us
  return name;
}

}  // namespace

std::string fit_to_file_limit(Options& options, int& upstream_calls) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  // Beside the connections of the calls there are idle ones, of other threads: about as many.
  const auto wanted =
      kOwnFiles + options.max_surplus + options.max_connections + 2 * upstream_calls;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= static_cast<rlim_t>(wanted)) return {};
  const int available = std::max(2, static_cast<int>(limit.rlim_cur) - kOwnFiles);
  upstream_calls = std::min(upstream_calls, std::max(1, available / 6));
  options.max_surplus = std::min(options.max_surplus, available / 6);
  options.max_connections = std::min(
      options.max_connections, std::max(1, available - 2 * upstream_calls - options.max_surplus));
  auto warning = "the limit of open files (" + std::to_string(limit.rlim_cur) +
                 ") is too low for what is configured: max_connections is now " +
                 std::to_string(options.max_connections);
  if (upstream_calls > 0) warning += ", max_upstream_calls " + std::to_string(upstream_calls);
  return warning;
}

int check_health(const std::string& name, const Options& options) {
  const auto host = options.host == "0.0.0.0" ? "127.0.0.1"
                    : options.host == "::"    ? "::1"
                                              : options.host;
  const auto port = static_cast<std::uint16_t>(options.port);
  const auto failure = name + ": not healthy at " + http::BaseUrl{host, port}.authority() + ": ";
  static const auto too_late = failure + "no answer within 2s\n";
  std::signal(SIGALRM, [](int) {
    [[maybe_unused]] const auto written = write(STDERR_FILENO, too_late.data(), too_late.size());
    _exit(1);
  });
  alarm(2);  // the look-up of a name and an answer that drips included

  const auto answer = httplib::Client(host, port).Get("/health");
  if (answer && answer->status == 200) return 0;
  std::cerr << failure
            << (answer ? "status " + std::to_string(answer->status)
                : answer.error() == httplib::Error::Connection ? "cannot connect"
                                                               : "no HTTP answer")
            << "\n";
  return 1;
}

Service::Service(const std::string& name, const Options& options)
    : name_(block_signals(name)),
      options_(options),
      log_(name, options.log_level, options.log_format),
      server_(server_options(options)) {
  metrics_.add_gauge("http_server_active_requests", "Requests under way.",
                     [this] { return static_cast<double>(server_.active_requests()); });
  metrics_.add_gauge("http_server_max_connections", "Most open connections, --max-connections.",
                     [this] { return static_cast<double>(options_.max_connections); });
  metrics_.add_gauge("http_server_open_connections", "Open connections of clients.",
                     [this] { return static_cast<double>(server_.open_connections()); });
  server_.on_answer([this](const http::Exchange& exchange) {
    metrics_.request(exchange);
    log_.request(exchange);
  });

  server_.Get("/health", [](const httplib::Request&, httplib::Response& response) {
    answer_json(response, 200, {{"status", "ok"}});
  });
  server_.Get("/ready", [this](const httplib::Request&, httplib::Response& response) {
    if (server_.draining()) return answer_json(response, 503, {{"status", "draining"}});
    answer_json(response, 200, {{"status", "ok"}});
  });
  server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics_.text(), "text/plain; version=0.0.4; charset=utf-8");
  });
}

int Service::run(const std::vector<LogField>& configuration) {
  http::Server::Addresses addresses;
  for (const auto& [route, handler] : server_.routes()) metrics_.expect_request(route, 200);
  try {
    const int inherited = systemd::inherited_socket();
    addresses = server_.bind(inherited);
    server_.start();
  } catch (const std::system_error& error) {
    std::cerr << name_ << ": cannot listen on " << error.what();
    if (error.code() == std::errc::address_in_use) {
      std::cerr << "; to see who holds it: ss -ltnp 'sport = :" << options_.port << "'";
    }
    std::cerr << "\n";
    return 1;
  }

  std::vector<LogField> fields{{"version", PROJECT_VERSION},
                               {"host", addresses.main.front().host},
                               {"port", std::to_string(addresses.main.front().port), true},
                               {"log_level", std::string(to_word(options_.log_level))},
                               {"max_connections", std::to_string(options_.max_connections), true},
                               {"drain_delay", to_text(options_.drain_delay)},
                               {"drain_timeout", to_text(options_.drain_timeout)}};
  fields.insert(fields.end(), configuration.begin(), configuration.end());
  log_.event(LogLevel::kInfo, "listening", fields);

  const auto signals = stop_signals();
  systemd::notify("READY=1");
  // Twice in the time after which the manager gives up; without one, wait for ever.
  const auto watchdog = systemd::watchdog_time() / 2;
  const timespec wait{watchdog / 1s, watchdog % 1s / 1ns};
  int signal = -1;
  while (signal < 0) {
    signal = sigtimedwait(&signals, nullptr, watchdog.count() > 0 ? &wait : nullptr);
    if (signal < 0 && watchdog.count() > 0 && server_.all_loops_responsive())
      systemd::notify("WATCHDOG=1");
  }
  systemd::notify("STOPPING=1");
  // A second signal now finds nobody waiting for it and ends the process at once.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  log_.event(LogLevel::kInfo, "stopping",
             {{"signal", signal == SIGTERM ? "SIGTERM" : "SIGINT"},
              {"connections", std::to_string(server_.open_connections()), true}});
  drain();
  return 0;
}

void Service::drain() {
  if (options_.drain_delay.count() > 0) {
    server_.begin_drain();
    std::this_thread::sleep_for(options_.drain_delay);
  }
  if (server_.stop(options_.drain_timeout)) {
    log_.event(LogLevel::kInfo, "stopped");
    return;
  }
  log_.event(LogLevel::kWarn, "stopped, requests were cut off at the drain timeout");
  log_.end();
  _exit(0);  // handlers may still run: nothing they use may be destroyed
}

}  // namespace common
