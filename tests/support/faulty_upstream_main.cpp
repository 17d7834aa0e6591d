// faulty-upstream: a Service A that misbehaves in a chosen way, to watch what Service B does.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <vector>

#include "support/faulty_upstream.hpp"

namespace {

// A line for each: its name, what B answers, what it does.
std::string table(const std::vector<tests::Mode>& modes) {
  std::ostringstream out;
  for (const auto& mode : modes) {
    const auto status = mode.status == 0 ? "" : std::to_string(mode.status) + " ";
    out << "  " << std::left << std::setw(23) << mode.name << " " << std::setw(22)
        << status + std::string(mode.reason) << " " << mode.description << '\n';
  }
  return out.str();
}

void print(const std::ostringstream& line) { std::cout << line.str() + "\n" << std::flush; }

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
  std::vector<tests::Mode> all{tests::random_mode()};
  all.insert(all.end(), tests::modes().begin(), tests::modes().end());
  std::vector<tests::Mode> first;
  for (const auto* each :
       {"silent", "dripped-body", "reset-after-request", "status-500", "not-json"}) {
    first.push_back(tests::mode_named(each));
  }
  app.footer("\nFive of the " + std::to_string(all.size()) +
             " modes, to try first, and what Service B then answers:\n" + table(first));

  try {
    app.parse(argc, argv);
    if (list) {
      std::cout << table(all);
      return 0;
    }
    if (name.empty()) throw CLI::RequiredError("MODE");
    options.on_connection = [](std::size_t number, const tests::Mode& mode) {
      std::ostringstream line;
      line << "connection=" << number << " mode=" << mode
           << " does=" << std::quoted(mode.description);
      print(line);
    };
    // Blocked before there are threads, so that every thread inherits it and sigwait() gets them
    // all.
    sigset_t stop_signals;
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGINT);
    sigaddset(&stop_signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
    const tests::FaultyUpstream upstream(tests::mode_named(name), options);
    std::ostringstream line;
    line << "service=faulty-upstream msg=\"listening\" host=" << options.host
         << " port=" << upstream.port() << " mode=" << name;
    print(line);
    int number = 0;
    ::sigwait(&stop_signals, &number);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::invalid_argument& error) {
    std::cerr << error.what() << "; --list names them\n";
    return 2;
  } catch (const std::system_error& error) {
    std::cerr << "faulty-upstream: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
