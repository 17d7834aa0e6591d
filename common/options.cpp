#include "common/options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace common {
namespace {

/// --log-level is LOG_LEVEL in the environment.
std::string environment_name(std::string flag) {
  flag.erase(0, 2);
  for (char& c : flag) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return flag;
}

template <typename Number>
std::optional<Number> parse_number(const std::string& text, Number low, Number high) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= low && value <= high)) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Duration> parse_duration(const std::string& text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [unit, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return std::nullopt;
  const std::string_view rest(unit, static_cast<std::size_t>(end - unit));
  if (rest != "ms" && rest != "s") return std::nullopt;
  const double milliseconds = rest == "s" ? number * 1000 : number;
  if (!(milliseconds <= 86'400'000)) return std::nullopt;
  return Duration(std::lround(milliseconds));
}

std::string to_text(Duration duration) {
  const auto count = duration.count();
  return count % 1000 == 0 ? std::to_string(count / 1000) + "s" : std::to_string(count) + "ms";
}

OptionParser::OptionParser(const std::string& service, const std::string& description,
                           Options& options)
    : app_(std::make_unique<CLI::App>(description, service)), options_(options) {
  app_->set_version_flag("--version", service + " " + PROJECT_VERSION);
  app_->get_formatter()->column_width(34);  // two spaces behind each name that fits, for help2man
  app_->footer(
      "Durations are written 250ms, 1s, 1.5s. A flag wins over its environment variable.\n"
      "Exit codes: 0 clean stop, 1 could not run or is not healthy, 2 wrong configuration.");
  app_->add_flag("--check", options.check,
                 "Ask the service that runs at this address for its /health: exit code 0 or 1");
  add("--host", options.host, "Address or name to listen on",
      "an IP address or a host name, without scheme, brackets or port",
      [&options](const std::string& text) {
        options.host = text;
        return http::is_host(text);
      });
  add_number("--port", options.port, 0, 65'535, "Port to listen on; 0 picks a free one");
  add("--admin-port", "none", "Second port, for /health, /ready and /metrics alone",
      "a number from 0 to 65535", [&options](const std::string& text) {
        options.admin_port = parse_number<int>(text, 0, 65'535);
        return options.admin_port.has_value();
      });
  add_word("--log-level", options.log_level, {"debug", "info", "warn", "error", "off"},
           "Least important level that is logged");
  add_word("--log-format", options.log_format, {"auto", "text", "logfmt", "json"},
           "Form of a log line, auto is text in a terminal and logfmt elsewhere");
  add_number("--max-connections", options.max_connections, 1, 1'000'000,
             "Open connections; more are answered 503");
  add_duration("--idle-timeout", options.idle_timeout, Duration(1),
               "How long an idle connection of a client stays open");
  add_duration("--drain-delay", options.drain_delay, Duration(0),
               "How long to go on serving after the stop signal, not ready");
  add_duration("--drain-timeout", options.drain_timeout, Duration(0),
               "How long requests under way may take after that");
}

OptionParser::~OptionParser() = default;

void OptionParser::add(const std::string& flag, const std::string& shown_default,
                       const std::string& help, const std::string& accepted,
                       std::function<bool(const std::string&)> take) {
  accepted_[flag] = accepted;
  const auto check = [take = std::move(take), accepted](const std::string& text) {
    return take(text) ? std::string() : "'" + text + "' is not accepted, give " + accepted;
  };
  app_->add_option(flag, help)
      ->envname(environment_name(flag))
      ->default_str(shown_default)
      ->type_name("")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->check(CLI::Validator(check, "", flag));
}

void OptionParser::add_word(const std::string& flag, std::string& value,
                            const std::vector<std::string>& words, const std::string& help) {
  std::string accepted = words.front();
  for (std::size_t i = 1; i < words.size(); ++i) {
    accepted += (i + 1 < words.size() ? ", " : " or ") + words[i];
  }
  add(flag, value, help + ": " + accepted, accepted, [&value, words](std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    value = text;
    return std::find(words.begin(), words.end(), text) != words.end();
  });
}

void OptionParser::add_number(const std::string& flag, int& value, int low, int high,
                              const std::string& help) {
  add(flag, std::to_string(value), help,
      "a number from " + std::to_string(low) + " to " + std::to_string(high),
      [&value, low, high](const std::string& text) {
        const auto parsed = parse_number(text, low, high);
        value = parsed.value_or(value);
        return parsed.has_value();
      });
}

void OptionParser::add_share(const std::string& flag, double& value, const std::string& help) {
  add(flag, "0", help, "a number from 0 to 1, such as 0.2", [&value](const std::string& text) {
    const auto parsed = parse_number(text, 0.0, 1.0);
    value = parsed.value_or(value);
    return parsed.has_value();
  });
}

void OptionParser::add_duration(const std::string& flag, Duration& value, Duration low,
                                const std::string& help) {
  add(flag, to_text(value), help,
      "a duration from " + to_text(low) + " to 86400s, such as 250ms, 1s or 1.5s",
      [&value, low](const std::string& text) {
        const auto parsed = parse_duration(text);
        value = parsed.value_or(value);
        return parsed && *parsed >= low;
      });
}

void OptionParser::add_url(const std::string& flag, std::string& value, const std::string& help) {
  add(flag, value, help, "http://host[:port], nothing behind it",
      [&value](const std::string& text) {
        try {
          http::parse_base_url(text);
        } catch (const std::invalid_argument&) {
          return false;
        }
        value = text;
        return true;
      });
}

bool OptionParser::given(const std::string& flag) const {
  return std::any_of(arguments_.begin(), arguments_.end(), [&](const std::string& argument) {
    return argument == flag || argument.starts_with(flag + "=");
  });
}

std::optional<int> OptionParser::parse(int argc, const char* const* argv) {
  arguments_.assign(argv + 1, argv + argc);
  // CLI11 takes "--port=" for a flag without a value, and does not say what it accepts.
  for (const auto& argument : arguments_) {
    const auto found = accepted_.find(argument.substr(0, argument.size() - 1));
    if (!argument.ends_with('=') || found == accepted_.end()) continue;
    return fail(2, app_->get_name(), found->first + ": '' is not accepted, give " + found->second);
  }
  try {
    app_->parse(argc, argv);
    for (const auto& [flag, key] :
         {std::pair("--host", "host_from"), std::pair("--port", "port_from"),
          std::pair("--admin-port", "admin_port_from")}) {
      const auto variable = environment_name(flag);
      const char* const text = std::getenv(variable.c_str());
      if (text != nullptr && *text != '\0' && !given(flag)) {
        options_.from_environment[key] = variable;
      }
    }
    return std::nullopt;
  } catch (const CLI::Success& done) {  // --help, --version
    app_->exit(done);
    return 0;
  } catch (const CLI::ExtrasError& error) {
    return fail(2, app_->get_name(),
                std::string(error.what()) + "; see " + app_->get_name() + " --help");
  } catch (const CLI::ParseError& error) {
    std::string line = error.what();
    const auto flag = line.substr(0, line.find(':'));
    const auto found = accepted_.find(flag);
    if (found != accepted_.end() && !given(flag)) {
      line.replace(0, flag.size(), "environment variable " + environment_name(flag));
    } else if (found != accepted_.end() && error.get_name() == "ArgumentMismatch") {
      line = flag + ": the value is missing, give " + found->second;  // as of --port $NOT_SET
    }
    return fail(2, app_->get_name(), line);
  }
}

}  // namespace common
