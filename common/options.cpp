#include "common/options.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

namespace common {
namespace {

/// --log-level is LOG_LEVEL in the environment.
std::string environment_name(std::string flag) {
  flag.erase(0, 2);
  for (char& c : flag) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return flag;
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
    : app_(description, service) {
  app_.set_version_flag("--version", service + " " + PROJECT_VERSION);
  app_.get_formatter()->column_width(34);  // two spaces behind each name that fits, for help2man
  app_.footer(
      "Durations are written 250ms, 1s, 1.5s. A flag wins over its environment variable.\n"
      "Exit codes: 0 clean stop, 1 could not run or is not healthy, 2 wrong configuration.");
  app_.add_flag("--check", options.check,
                "Ask the service that runs at this address for its /health: exit code 0 or 1");
  add("--host", options.host, "Address to listen on", "an address or a host name",
      [&options](const std::string& text) {
        options.host = text;
        return !text.empty();
      });
  add_number("--port", options.port, 0, 65'535, "Port to listen on; 0 picks a free one");
  add("--log-level", "info", "Least important level that is logged",
      "debug, info, warn, error or off", [&options](const std::string& text) {
        for (const auto level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn,
                                 LogLevel::kError, LogLevel::kOff}) {
          if (text != to_word(level)) continue;
          options.log_level = level;
          return true;
        }
        return false;
      });
  add("--log-format", "logfmt", "Form of a log line", "logfmt or json",
      [&options](const std::string& text) {
        options.log_format = text == "json" ? LogFormat::kJson : LogFormat::kLogfmt;
        return text == "json" || text == "logfmt";
      });
  add_number("--max-connections", options.max_connections, 1, 1'000'000,
             "Open connections; more are answered 503");
  add_duration("--drain-delay", options.drain_delay, Duration(0),
               "How long to go on serving after the stop signal, not ready");
  add_duration("--drain-timeout", options.drain_timeout, Duration(0),
               "How long requests under way may take after that");
}

void OptionParser::add(const std::string& flag, const std::string& shown_default,
                       const std::string& help, const std::string& accepted,
                       std::function<bool(const std::string&)> take) {
  accepted_[flag] = accepted;
  const auto check = [take = std::move(take), accepted](const std::string& text) {
    return take(text) ? std::string() : "'" + text + "' is not accepted, give " + accepted;
  };
  app_.add_option(flag, help)
      ->envname(environment_name(flag))
      ->default_str(shown_default)
      ->type_name("")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->check(CLI::Validator(check, "", flag));
}

void OptionParser::add_number(const std::string& flag, int& value, int low, int high,
                              const std::string& help) {
  add(flag, std::to_string(value), help,
      "a number from " + std::to_string(low) + " to " + std::to_string(high),
      [&value, low, high](const std::string& text) {
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, value);
        return error == std::errc() && stop == end && value >= low && value <= high;
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

std::optional<int> OptionParser::parse(int argc, const char* const* argv) {
  // CLI11 takes "--port=" for a flag without a value, and does not say what it accepts.
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto found = accepted_.find(argument.substr(0, argument.size() - 1));
    if (!argument.ends_with('=') || found == accepted_.end()) continue;
    std::cerr << app_.get_name() << ": " << found->first << ": '' is not accepted, give "
              << found->second << "\n";
    return 2;
  }
  try {
    app_.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& done) {  // --help, --version
    app_.exit(done);
    return 0;
  } catch (const CLI::ParseError& error) {
    std::string line = error.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::cerr << app_.get_name() << ": " << line << "\n";
    return 2;
  }
}

}  // namespace common
