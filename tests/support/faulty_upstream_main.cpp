// faulty-upstream: a Service A that misbehaves in a chosen way, to watch what Service B does.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <vector>

#include "support/faulty_upstream.hpp"

namespace {

// "503 timeout", "200": what Service B makes of it.
std::string expectation(const tests::Mode& mode) {
  if (mode.status == 0) return "";
  std::string text = std::to_string(mode.status);
  if (!mode.reason.empty()) text += " " + std::string(mode.reason);
  return text;
}

// A line for each: its name, what B answers, what it does.
std::string table(const std::vector<tests::Mode>& modes) {
  std::ostringstream out;
  for (const auto& mode : modes) {
    out << "  " << std::left << std::setw(21) << mode.name << " " << std::setw(22)
        << expectation(mode) << " " << mode.description << '\n';
  }
  return out.str();
}

std::vector<tests::Mode> to_try_first() {
  std::vector<tests::Mode> modes;
  for (const auto* name :
       {"silent", "dripped-body", "reset-after-request", "status-500", "not-json"}) {
    modes.push_back(tests::mode_named(name));
  }
  return modes;
}

std::vector<tests::Mode> all_modes() {
  std::vector<tests::Mode> modes{tests::random_mode()};
  modes.insert(modes.end(), tests::modes().begin(), tests::modes().end());
  return modes;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Stands in for Service A and misbehaves in a chosen way. Runs until Ctrl+C.",
               "faulty-upstream");
  tests::FaultyUpstreamOptions options;
  options.port = 8080;
  std::string name;
  bool list = false;
  app.add_option("--host", options.host, "IPv4 address to listen on")->capture_default_str();
  app.add_option("--port", options.port, "port to listen on; 0 picks a free one")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the mode `random`")->capture_default_str();
  app.add_flag("--list", list, "print all modes and exit");
  app.add_option("MODE", name, "what to do to the caller");
  app.footer("\nFive of the " + std::to_string(all_modes().size()) +
             " modes, to try first, and what Service B then answers:\n" + table(to_try_first()));

  try {
    app.parse(argc, argv);
    if (list) {
      std::cout << table(all_modes());
      return 0;
    }
    if (name.empty()) throw CLI::RequiredError("MODE");
    if (tests::find_mode(name) == nullptr) {
      throw CLI::ValidationError("MODE", "no mode \"" + name + "\"; --list names them");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  // Blocked before there are threads, so that every thread inherits it and sigwait() gets them all.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  options.on_connection = [](std::size_t number, const tests::Mode& mode) {
    std::ostringstream line;
    line << "connection=" << number << " mode=" << mode << " does=" << std::quoted(mode.description)
         << '\n';
    std::cout << line.str() << std::flush;
  };
  try {
    const auto& mode = tests::mode_named(name);
    const std::string host = options.host;
    const tests::FaultyUpstream upstream(mode, std::move(options));
    std::ostringstream line;
    line << "service=faulty-upstream msg=\"listening\" host=" << host << " port=" << upstream.port()
         << " mode=" << mode << '\n';
    std::cout << line.str() << std::flush;
    int number = 0;
    ::sigwait(&stop_signals, &number);
  } catch (const std::system_error& error) {
    std::cerr << "faulty-upstream: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
