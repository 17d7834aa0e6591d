#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/url.hpp"
#include "common/log.hpp"

namespace CLI {  // NOLINT(readability-identifier-naming)
class App;       // takes seconds to compile
}

namespace common {

using Duration = std::chrono::milliseconds;

/// What both services can be told. The members' values are the defaults.
struct Options {
  std::string host = "127.0.0.1";
  int port = 0;
  std::optional<int> admin_port;  ///< for /health, /ready and /metrics; 0: any free one
  /// The variables that host, port and admin_port come from, as "host_from", "HOST".
  std::map<std::string_view, std::string> from_environment;
  std::string log_level = "info";   ///< a word of the flag, in lower case
  std::string log_format = "auto";  ///< the same
  int max_connections = 10'000;
  int max_surplus = 64;  ///< connections above that which are being told so; not a flag
  Duration idle_timeout{75'000};
  Duration drain_delay{0};
  Duration drain_timeout{10'000};
  bool check = false;  ///< not to serve, but to ask the one that does: check_health()
};

/// "250ms", "1s", "1.5s" to milliseconds; nothing for anything else, or for more than a day.
std::optional<Duration> parse_duration(const std::string& text);
/// In one of these forms.
std::string to_text(Duration duration);

/// The command line. A flag wins over its environment variable, which wins over the default.
/// Each variable must outlive parse().
class OptionParser {
 public:
  /// Declares the flags of Options.
  OptionParser(const std::string& service, const std::string& description, Options& options);
  ~OptionParser();

  /// Takes one of `words` in any case, stores it in lower case.
  void add_word(const std::string& flag, std::string& value, const std::vector<std::string>& words,
                const std::string& help);
  void add_number(const std::string& flag, int& value, int low, int high, const std::string& help);
  /// A number from 0 to 1.
  void add_share(const std::string& flag, double& value, const std::string& help);
  void add_duration(const std::string& flag, Duration& value, Duration low,
                    const std::string& help);
  void add_url(const std::string& flag, std::string& value, const std::string& help);

  /// Fills the variables in. Returns the code to exit with where the program shall not run: 0 after
  /// --help and --version, 2 after one line on stderr that says what is wrong.
  std::optional<int> parse(int argc, const char* const* argv);

 private:
  void add(const std::string& flag, const std::string& shown_default, const std::string& help,
           const std::string& accepted, std::function<bool(const std::string&)> take);

  /// Whether the command line has `flag`; otherwise its value comes from the environment.
  bool given(const std::string& flag) const;

  const std::unique_ptr<CLI::App> app_;
  Options& options_;
  std::vector<std::string> arguments_;
  std::map<std::string, std::string> accepted_;  // what each flag takes, in words
};

}  // namespace common
