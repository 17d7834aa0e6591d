#pragma once

#include <spdlog/logger.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/exchange.hpp"

namespace common {

enum class LogFormat { kText, kLogfmt, kJson };

using LogField = http::Exchange::Note;

/// As the log and Server-Timing show a duration, such as 0.287.
std::string milliseconds(std::chrono::nanoseconds duration);

spdlog::level::level_enum level_of(const http::Exchange& exchange);

/// What a line says about an answered request, and about anything else. Pure. Values are quoted and
/// escaped as JSON strings where that is needed, so that no value forges a line, a field or a
/// colour; bytes that are not UTF-8 become U+FFFD.
std::string request_text(LogFormat format, const http::Exchange& exchange);
std::string event_text(LogFormat format, std::string_view msg, const std::vector<LogField>& fields);

/// What stands round that text: time, level and service. `journal`: begins with the level as
/// sd-daemon(3) has it, for `journalctl -p`. `colour`: the level has one, in kText.
std::unique_ptr<spdlog::formatter> make_formatter(LogFormat format, bool journal, bool colour);

/// The log of a service: an spdlog logger whose sink has a thread write the lines to stdout, at the
/// latest 100 ms after they were made. Where stdout takes nothing (a reader that hangs, a full
/// disk, a closed pipe) the services go on: lines are lost and counted, and once stdout takes lines
/// again, one of them says how many. The destructor writes what is left, for at most a second if
/// stdout takes nothing. Colours: where stdout is a terminal and NO_COLOR is not set, or
/// CLICOLOR_FORCE is. Thread-safe.
class Log {
 public:
  /// `level`, `format`: the words of --log-level and --log-format. Throws std::system_error where
  /// no thread can be started.
  Log(const std::string& service, const std::string& level, const std::string& format);
  ~Log();

  void request(const http::Exchange& exchange);
  void event(spdlog::level::level_enum level, std::string_view msg,
             const std::vector<LogField>& fields = {});

  /// How many lines were lost so far.
  std::uint64_t lost() const;

  /// What the destructor does, where it cannot be called: what is logged later is lost.
  void end();

 private:
  class Sink;
  template <typename Text>
  void write(spdlog::level::level_enum level, Text&& text);

  const LogFormat format_;
  const std::shared_ptr<Sink> sink_;
  spdlog::logger logger_;
};

/// The last words of a program that cannot go on: one line on stderr, control characters escaped.
/// Returns `code`, to exit with.
int fail(int code, const std::string& service, std::string_view sentence);

}  // namespace common
