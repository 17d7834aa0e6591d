#include "support/log_lines.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tests {
namespace {

// One flat JSON object, each key once.
std::optional<LogLine> parse_json_line(std::string_view line) {
  std::size_t keys = 0;
  const auto count_keys = [&keys](int, nlohmann::json::parse_event_t event, nlohmann::json&) {
    keys += event == nlohmann::json::parse_event_t::key ? 1U : 0U;
    return true;
  };
  const auto json = nlohmann::json::parse(line, count_keys, false);
  if (!json.is_object() || json.size() != keys) return std::nullopt;
  LogLine result;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string() && !value.is_number()) return std::nullopt;
    result[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return result;
}

std::optional<LogLine> parse(std::string_view line) {
  return line.starts_with('{') ? parse_json_line(line) : parse_logfmt(line);
}

bool is_key(std::string_view text) {
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  return !text.empty() && lower(text.front()) && std::ranges::all_of(text, [&](char c) {
    return lower(c) || (c >= '0' && c <= '9') || c == '_';
  });
}

// The value at the start of `text`, as it is written; empty when there is none.
std::string_view written_value(std::string_view text) {
  if (!text.starts_with('"')) return text.substr(0, text.find_first_of(" \"=\\"));
  for (std::size_t at = 1; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == '"') {
      return text.substr(0, at + 1);
    }
  }
  return {};
}

}  // namespace

std::optional<LogLine> parse_logfmt(std::string_view line) {
  if (!std::ranges::all_of(line, [](char c) { return c >= ' ' && c <= '~'; })) return std::nullopt;
  LogLine result;
  while (true) {
    const auto key = line.substr(0, line.find('='));
    if (!is_key(key) || key.size() == line.size()) return std::nullopt;
    line.remove_prefix(key.size() + 1);
    const auto written = written_value(line);
    line.remove_prefix(written.size());
    std::string value(written);
    if (value.starts_with('"')) {
      const auto json = nlohmann::json::parse(written, nullptr, false);
      if (!json.is_string()) return std::nullopt;
      value = json;
    }
    if (written.empty() || !result.emplace(key, value).second) return std::nullopt;
    if (line.empty()) return result;
    if (line.front() != ' ') return std::nullopt;
    line.remove_prefix(1);
  }
}

std::vector<LogLine> log_lines(const Process& process) {
  std::vector<LogLine> result;
  for (const auto& line : process.lines()) {
    if (auto parsed = parse(line)) {
      result.push_back(std::move(*parsed));
    } else {
      ADD_FAILURE() << "not a log line: " << line;
    }
  }
  return result;
}

std::vector<LogLine> request_lines(const Process& process) {
  auto lines = log_lines(process);
  std::erase_if(lines, [](const LogLine& line) { return !line.contains("method"); });
  return lines;
}

std::string value(const LogLine& line, const std::string& key) {
  const auto found = line.find(key);
  return found == line.end() ? "(none)" : found->second;
}

LogLine line_with(Process& process, const std::string& key, const std::string& wanted,
                  std::chrono::milliseconds timeout) {
  LogLine result;
  const auto find = [&](std::string_view out) {
    for (auto end = out.find('\n'); end != std::string_view::npos; end = out.find('\n')) {
      const auto line = out.substr(0, end);
      out.remove_prefix(end + 1);
      if (line.find(wanted) == std::string_view::npos) continue;
      const auto parsed = parse(line);
      if (!parsed || value(*parsed, key) != wanted) continue;
      result = *parsed;
      return true;
    }
    return false;
  };
  if (!process.wait_for(find, timeout))
    ADD_FAILURE() << "no log line with " << key << "=" << wanted;
  return result;
}

LogLine line_of(Process& process, const Response& response) {
  return line_with(process, "request_id", response.header("x-request-id").value_or("(none)"));
}

}  // namespace tests
