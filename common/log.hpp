#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/exchange.hpp"

namespace spdlog {
class logger;
}

namespace common {

enum class LogLevel { kDebug = 1, kInfo, kWarn, kError, kOff = 6 };  ///< numbered as spdlog does it
enum class LogFormat { kLogfmt, kJson };

std::string_view to_word(LogLevel level);

using LogField = http::Exchange::Note;

/// As the log and Server-Timing show a duration, such as 0.287.
std::string milliseconds(std::chrono::nanoseconds duration);

/// One log line, without its newline. Pure. Values are quoted and escaped as JSON strings where
/// that is needed, so that whatever is in them can forge neither a line nor a field; bytes that are
/// not UTF-8 become U+FFFD.
std::string format_line(LogFormat format, std::chrono::system_clock::time_point time,
                        LogLevel level, std::string_view service,
                        const std::vector<LogField>& fields);

/// The fields of the line about an answered request, in the order in which they are written.
std::vector<LogField> request_fields(const http::Exchange& exchange);

LogLevel level_of(const http::Exchange& exchange);

/// The log of a service: lines on stdout, written by a thread of their own, at the latest 100 ms
/// after they were made. Where stdout takes nothing any more the services go on: while 8 MiB wait,
/// lines are dropped, counted, and the count is logged when stdout is back. The destructor writes
/// out all that is left, for a second if stdout takes nothing. Thread-safe.
class Log {
 public:
  Log(std::string service, LogLevel level, LogFormat format);
  ~Log();

  void request(const http::Exchange& exchange);
  void event(LogLevel level, std::string_view msg, std::vector<LogField> fields = {});

  /// What the destructor does, where it cannot be called: what is logged later is lost.
  void end();

 private:
  class Sink;
  void write(LogLevel level, const std::vector<LogField>& fields);

  const std::string service_;
  const LogFormat format_;
  std::shared_ptr<Sink> sink_;
  std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace common
