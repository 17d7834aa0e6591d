#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/http_client.hpp"
#include "support/process.hpp"

// Reads the log of a service back. Strict: what it takes, every logfmt or JSON reader takes.

namespace tests {

// The fields of a log line; the values unquoted, numbers as they were written.
using LogLine = std::map<std::string, std::string>;

// key=value, one space between, each key once; a value has no quotes, or is a JSON string.
// Printable ASCII, nothing else.
std::optional<LogLine> parse_logfmt(std::string_view line);

// All lines so far. Fails the test for each line that is not one of the log's.
std::vector<LogLine> log_lines(const Process& process);
// Those about requests.
std::vector<LogLine> request_lines(const Process& process);

// The value, or "(none)", which no field ever has.
std::string value(const LogLine& line, const std::string& key);

// The first line in which `key` is `wanted`, waiting for it; empty if it does not come.
LogLine line_with(Process& process, const std::string& key, const std::string& wanted,
                  std::chrono::milliseconds timeout = std::chrono::seconds(20));
// The line about the request that got `response`.
LogLine line_of(Process& process, const Response& response);

}  // namespace tests
