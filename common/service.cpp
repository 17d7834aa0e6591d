#include "common/service.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "common/json.hpp"
#include "common/systemd.hpp"

namespace common {
namespace {

using namespace std::chrono_literals;

// stdio, epoll, eventfds, the listener, the manager's socket, /proc for /metrics, name servers.
constexpr int kOwnFiles = 24;
constexpr int kAdminConnections = 16;
constexpr unsigned kMaxThreads = 4;  // more than there are cores would only add switches

http::ServerOptions server_options(const Options& options) {
  return {.host = options.host,
          .port = options.port,
          .admin_port = options.admin_port,
          .threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads),
          .max_connections = static_cast<std::size_t>(options.max_connections),
          .max_admin_connections = kAdminConnections,
          .max_over_limit = static_cast<std::size_t>(options.max_surplus),
          .idle_timeout = options.idle_timeout};
}

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&signals, SIGHUP);  // not under nohup(1)
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&signals, signal);
  return signals;
}

/// From now on they end the process. The default action might not: process 1 has none.
void end_at_once(const sigset_t& signals, void (*end)(int)) {
  for (const int each : {SIGTERM, SIGINT, SIGHUP}) {
    if (sigismember(&signals, each) == 1) std::signal(each, end);
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

}  // namespace

void prepare_process() {
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDWR);  // the lowest free one
  if (fd >= 0) close(fd);

  // resolv.conf(5): a name server that does not answer is asked each second, not each five.
  setenv("RES_OPTIONS", "timeout:1 attempts:5", 0);

  const auto signals = stop_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A reader of our log that ends, or a limit of its size, must not end us. As process 1 of a
  // container we inherit children that we don't know: ignoring SIGCHLD reaps them, see wait(2).
  for (const int signal : {SIGPIPE, SIGXFSZ, SIGUSR1, SIGUSR2, SIGCHLD}) {
    std::signal(signal, SIG_IGN);
  }
  // It does not reap those that ended before: an entry point may have left us some.
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

std::string fit_to_file_limit(Options& options, int& upstream_calls) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  if (limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  // Beside the connections of the calls there are idle ones, of other threads: about as many.
  const int own = kOwnFiles + (options.admin_port ? kAdminConnections : 0);
  const auto wanted = own + options.max_surplus + options.max_connections + 2 * upstream_calls;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= static_cast<rlim_t>(wanted)) return {};
  const int available = static_cast<int>(limit.rlim_cur) - own;
  if (available < 4) {
    throw std::runtime_error("the limit of open files (" + std::to_string(limit.rlim_cur) +
                             ") is too low to serve anyone; see ulimit -n");
  }
  const auto configured = std::pair(options.max_connections, upstream_calls);
  upstream_calls = std::min(upstream_calls, std::max(1, available / 6));
  options.max_surplus = std::min(options.max_surplus, std::max(1, available / 6));
  options.max_connections = std::min(
      options.max_connections, std::max(1, available - 2 * upstream_calls - options.max_surplus));
  if (configured == std::pair(options.max_connections, upstream_calls)) return {};
  auto warning = "the limit of open files (" + std::to_string(limit.rlim_cur) +
                 ") is too low for what is configured: max_connections is now " +
                 std::to_string(options.max_connections);
  if (upstream_calls > 0) warning += ", max_upstream_calls " + std::to_string(upstream_calls);
  return warning;
}

std::vector<std::string> own_hosts(const std::string& host) {
  in_addr v4{};
  in6_addr v6{};
  const bool is_v4 = inet_pton(AF_INET, host.c_str(), &v4) == 1;
  if (is_v4 && v4.s_addr == INADDR_ANY) return {"127.0.0.1"};
  const bool is_v6 = inet_pton(AF_INET6, host.c_str(), &v6) == 1;
  // The loopback may have no IPv6.
  if (is_v6 && IN6_IS_ADDR_UNSPECIFIED(&v6)) return {"::1", "127.0.0.1"};
  return {host};
}

int check_health(const std::string& name, const Options& options) {
  const auto port = static_cast<std::uint16_t>(options.admin_port.value_or(options.port));
  static std::string too_late;
  std::signal(SIGALRM, [](int) {
    [[maybe_unused]] const auto written = write(STDERR_FILENO, too_late.data(), too_late.size());
    _exit(1);
  });
  const auto failure = [&](const std::string& host) {
    return "not healthy at " + http::BaseUrl{host, port}.address() + ": ";
  };
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);  // a parent may have blocked SIGALRM
  std::string why;
  alarm(2);  // the look-up of a name and an answer that drips included
  for (const auto& host : own_hosts(options.host)) {
    too_late = name + ": " + failure(host) + "no answer within 2s\n";
    const httplib::Headers headers{{"Host", http::BaseUrl{host, port}.authority()}};
    httplib::Client client(host, port);
    client.set_connection_timeout(500ms);  // a firewall may swallow what goes to one of them
    const auto answer = client.Get("/health", headers);
    if (answer && answer->status == 200) return 0;
    const bool connected = answer || (answer.error() != httplib::Error::Connection &&
                                      answer.error() != httplib::Error::ConnectionTimeout);
    why = failure(host) + (answer      ? "status " + std::to_string(answer->status)
                           : connected ? "no HTTP answer"
                                       : "cannot connect");
  }
  return fail(1, name, why);
}

Service::Service(const std::string& name, const Options& options)
    : name_(name),
      options_(options),
      log_(name, options.log_level, options.log_format),
      server_(server_options(options)) {
  metrics_.add_gauge("http_server_active_requests", "Requests under way.",
                     [this] { return static_cast<double>(server_.active_requests()); });
  metrics_.add_gauge("http_server_max_connections", "Most open connections, --max-connections.",
                     [this] { return static_cast<double>(options_.max_connections); });
  metrics_.add_gauge("http_server_open_connections", "Open connections of clients.",
                     [this] { return static_cast<double>(server_.open_connections()); });
  metrics_.add_counter("log_lines_dropped_total", "Log lines that stdout did not take.",
                       [this] { return static_cast<double>(log_.lost()); });
  server_.on_answer([this](const http::Exchange& exchange) {
    metrics_.request(exchange);
    log_.request(exchange);
  });

  server_.Get(
      "/health",
      [](const httplib::Request&, httplib::Response& response) {
        answer_json(response, 200, {{"status", "ok"}});
      },
      http::Ports::kBoth);
  server_.Get(
      "/ready",
      [this](const httplib::Request&, httplib::Response& response) {
        if (server_.draining()) return answer_json(response, 503, {{"status", "draining"}});
        answer_json(response, 200, {{"status", "ok"}});
      },
      http::Ports::kBoth);
  server_.Get(
      "/metrics",
      [this](const httplib::Request&, httplib::Response& response) {
        response.set_content(metrics_.text(), "text/plain; version=0.0.4; charset=utf-8");
      },
      options.admin_port ? http::Ports::kAdmin : http::Ports::kMain);
}

int Service::run(const std::vector<LogField>& configuration) {
  http::Server::Addresses addresses;
  std::map<std::string_view, std::string> from_environment;
  for (const auto& [route, handler] : server_.routes()) metrics_.expect_request(route, 200);
  auto signals = stop_signals();
  end_at_once(signals, [](int) { _exit(0); });  // the look-up of a host's name may take long
  try {
    const int inherited = systemd::inherited_socket();
    from_environment = options_.from_environment;
    if (inherited >= 0) {  // it has its own
      from_environment.erase("port_from");
      if (!options_.admin_port) from_environment.erase("host_from");
    }
    addresses = server_.bind(inherited);
  } catch (const http::BindError& error) {
    std::string why = error.what();
    if (error.code() == std::errc::address_in_use && options_.admin_port == options_.port) {
      why += "; --port and --admin-port are the same";
    } else if (error.code() == std::errc::address_in_use) {
      const auto address = why.substr(0, why.find(": "));
      why += "; to see who holds it: ss -tanp 'sport = " + address.substr(address.rfind(':')) + "'";
    }
    for (const auto& [key, variable] : from_environment) {
      why += "; the environment variable " + variable + " is set";
    }
    return fail(1, name_, "cannot listen on " + why);
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    server_.start();
  } catch (const std::system_error& error) {
    return fail(1, name_, std::string("cannot start a thread: ") + error.what());
  }

  const auto list = [](const std::vector<http::BaseUrl>& urls) {
    std::string text;
    for (const auto& url : urls) text.append(text.empty() ? "" : ",").append(url.address());
    return text;
  };
  std::vector<LogField> fields{{"version", PROJECT_VERSION},
                               {"host", addresses.main.front().host},
                               {"port", std::to_string(addresses.main.front().port), true},
                               {"addresses", list(addresses.main)},
                               {"log_level", options_.log_level},
                               {"max_connections", std::to_string(options_.max_connections), true},
                               {"idle_timeout", to_text(options_.idle_timeout)},
                               {"drain_delay", to_text(options_.drain_delay)},
                               {"drain_timeout", to_text(options_.drain_timeout)}};
  for (const auto& [key, variable] : from_environment) fields.push_back({key, "environment"});
  if (!addresses.admin.empty()) {
    fields.push_back({"admin_port", std::to_string(addresses.admin.front().port), true});
    fields.push_back({"admin_addresses", list(addresses.admin)});
  }
  fields.insert(fields.end(), configuration.begin(), configuration.end());
  log_.event(spdlog::level::info, "listening", fields);

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
  // With SendSIGHUP=yes systemd sends SIGTERM and SIGHUP together: one stop. Of signals that wait
  // the one with the lowest number comes first, see signal(7).
  const timespec no_wait{};
  if (signal == SIGHUP) signal = std::max(signal, sigtimedwait(&signals, nullptr, &no_wait));
  // Closing a terminal often sends SIGHUP twice. A further one stays blocked and changes nothing.
  sigdelset(&signals, SIGHUP);
  end_at_once(signals, [](int second) { _exit(128 + second); });
  log_.event(spdlog::level::info, "stopping",
             {{"signal", std::string("SIG") + sigabbrev_np(signal)},
              {"connections", std::to_string(server_.open_connections()), true}});
  drain();
  return 0;
}

void Service::drain() {
  if (options_.drain_delay.count() > 0) {
    server_.begin_drain();
    std::this_thread::sleep_for(options_.drain_delay);
  }
  const bool finished = server_.stop(options_.drain_timeout);
  const auto connections = server_.open_connections();
  if (connections == 0) {
    log_.event(spdlog::level::info, "stopped");
  } else {
    log_.event(spdlog::level::warn, "stopped, connections were cut off at the drain timeout",
               {{"connections", std::to_string(connections), true},
                {"requests", std::to_string(server_.active_requests()), true}});
  }
  if (finished) return;
  log_.end();
  _exit(0);  // handlers may still run: nothing they use may be destroyed
}

}  // namespace common
