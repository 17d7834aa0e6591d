#include "common/log.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace common {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using Fields = std::vector<std::pair<std::string, std::string>>;

const auto kTime =
    std::chrono::system_clock::time_point(1'795'416'421s) + std::chrono::microseconds(123'456);

std::string line_of(LogFormat format, const std::vector<LogField>& fields) {
  return format_line(format, kTime, LogLevel::kInfo, "service-a", fields);
}

// Reads a logfmt line as its readers do: a value ends at a space, or at its closing quote. Nothing
// where the line cannot be read.
std::optional<Fields> read_logfmt(std::string_view line) {
  Fields fields;
  while (!line.empty()) {
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string key(line.substr(0, equals));
    if (key.empty() || key.find_first_of(" \"") != std::string::npos) return std::nullopt;
    line.remove_prefix(equals + 1);
    std::string value;
    if (line.starts_with('"')) {
      std::size_t end = 1;
      while (end < line.size() && line[end] != '"') end += line[end] == '\\' ? 2 : 1;
      if (end >= line.size()) return std::nullopt;
      const auto quoted = nlohmann::json::parse(line.substr(0, end + 1), nullptr, false);
      if (!quoted.is_string()) return std::nullopt;
      value = quoted.get<std::string>();
      line.remove_prefix(end + 1);
    } else {
      value = line.substr(0, line.find(' '));
      line.remove_prefix(value.size());
    }
    fields.emplace_back(key, value);
    if (line.empty()) break;
    if (line.front() != ' ') return std::nullopt;
    line.remove_prefix(1);
  }
  return fields;
}

TEST(FormatLine, WritesLogfmt) {
  EXPECT_EQ(line_of(LogFormat::kLogfmt, {{"method", "GET"}, {"status", "200", true}}),
            "time=2026-11-23T06:47:01.123456Z level=info service=service-a method=GET status=200");
}

TEST(FormatLine, WritesJson) {
  EXPECT_EQ(
      line_of(LogFormat::kJson, {{"method", "GET"}, {"status", "200", true}}),
      "{\"time\":\"2026-11-23T06:47:01.123456Z\",\"level\":\"info\",\"service\":\"service-a\","
      "\"method\":\"GET\",\"status\":200}");
}

TEST(FormatLine, PadsTheFractionOfASecond) {
  const auto at = std::chrono::system_clock::time_point(0s) + std::chrono::microseconds(7);
  EXPECT_EQ(format_line(LogFormat::kLogfmt, at, LogLevel::kWarn, "s", {}),
            "time=1970-01-01T00:00:00.000007Z level=warn service=s");
}

TEST(FormatLine, QuotesOnlyWhereItMust) {
  const auto value = [](const std::string& text) {
    return line_of(LogFormat::kLogfmt, {{"k", text}})
        .substr("time=2026-11-23T06:47:01.123456Z level=info service=service-a k="s.size());
  };
  EXPECT_EQ(value("/a?b:c'd"), "/a?b:c'd");
  EXPECT_EQ(value(""), "\"\"");
  EXPECT_EQ(value("a b"), "\"a b\"");
  EXPECT_EQ(value("a=b"), "\"a=b\"");
  EXPECT_EQ(value("a\"b"), "\"a\\\"b\"");
  EXPECT_EQ(value("a\\b"), "\"a\\\\b\"");
  EXPECT_EQ(value("a\r\nb"), "\"a\\r\\nb\"");
  EXPECT_EQ(value("\0"s), "\"\\u0000\"");
  EXPECT_EQ(value("\x7f"), "\"\\u007f\"");
  EXPECT_EQ(value("\u00e4\u2028"), "\"\\u00e4\\u2028\"");
  EXPECT_EQ(value("\xff"), "\"\\ufffd\"");
}

// What terminals and readers of lines act on must not get through, whoever sends it.
TEST(FormatLine, LetsNoValueForgeALineOrAField) {
  std::mt19937 random(20261123);
  const std::string nasty = " =\"\\\n\r\t\0\x1b\x7f\x80\xc2\x85\xe2\xa8,{}:az"s;
  for (int round = 0; round < 20'000; ++round) {
    std::string value;
    for (auto left = random() % 12; left > 0; --left) value += nasty[random() % nasty.size()];
    const std::vector<LogField> fields{{"endpoint", value}, {"status", "200", true}};

    const auto json = line_of(LogFormat::kJson, fields);
    const auto parsed = nlohmann::json::parse(json, nullptr, false);
    ASSERT_TRUE(parsed.is_object()) << json;
    ASSERT_EQ(parsed.size(), 5u) << json;
    ASSERT_EQ(parsed["status"], 200) << json;

    const auto line = line_of(LogFormat::kLogfmt, fields);
    const auto read = read_logfmt(line);
    ASSERT_TRUE(read) << line;
    ASSERT_EQ(read->size(), 5u) << line;
    ASSERT_EQ((*read)[3], (std::pair{"endpoint"s, parsed["endpoint"].get<std::string>()})) << line;

    for (const auto& text : {json, line}) {
      for (const char c : text) {
        ASSERT_TRUE(c >= 0x20 && static_cast<unsigned char>(c) < 0x7f)
            << testing::PrintToString(text);
      }
    }
  }
}

TEST(FormatLine, GivesBackEveryValidValue) {
  for (const std::string& value :
       {""s, "a b"s, "\0"s, "\u00e4\U0001F600"s, "\"\\"s, "a=b c=d"s, "\x7f"s}) {
    const auto json = nlohmann::json::parse(line_of(LogFormat::kJson, {{"k", value}}));
    EXPECT_EQ(json["k"], value);
    const auto read = read_logfmt(line_of(LogFormat::kLogfmt, {{"k", value}}));
    ASSERT_TRUE(read);
    EXPECT_EQ(read->back().second, value);
  }
}

http::Exchange exchange() {
  http::Exchange out;
  out.method = "GET";
  out.endpoint = "/call-echo";
  out.status = 503;
  out.latency = std::chrono::microseconds(12'034);
  out.request_id = "r";
  out.trace.trace_id = "t";
  return out;
}

TEST(RequestFields, AreInTheOrderOfTheContract) {
  auto each = exchange();
  each.note("upstream_ms", "0.287", true);
  each.note("reason", "timeout");
  EXPECT_EQ(line_of(LogFormat::kLogfmt, request_fields(each)),
            "time=2026-11-23T06:47:01.123456Z level=info service=service-a method=GET "
            "endpoint=/call-echo status=503 latency_ms=12.034 upstream_ms=0.287 reason=timeout "
            "request_id=r trace_id=t");
}

TEST(RequestFields, AreBoundedWhateverTheClientSends) {
  auto each = exchange();
  each.method = std::string(8'000, 'M');
  each.endpoint = "/" + std::string(8'000, 'a');
  const auto fields = request_fields(each);
  EXPECT_EQ(fields[0].value.size(), 32u);
  EXPECT_EQ(fields[1].value, "/" + std::string(255, 'a'));
}

TEST(RequestFields, ShowLatencyInMillisecondsWithThreeDigits) {
  auto each = exchange();
  const auto latency = [&](std::chrono::nanoseconds time) {
    each.latency = time;
    return request_fields(each)[3].value;
  };
  EXPECT_EQ(latency(0ns), "0.000");
  EXPECT_EQ(latency(999ns), "0.000");
  EXPECT_EQ(latency(1us), "0.001");
  EXPECT_EQ(latency(10ms), "10.000");
  EXPECT_EQ(latency(100'020us), "100.020");
}

TEST(LevelOf, FollowsTheOutcome) {
  auto each = exchange();
  EXPECT_EQ(level_of(each), LogLevel::kInfo);
  each.outcome = http::Exchange::Outcome::kRefused;
  EXPECT_EQ(level_of(each), LogLevel::kWarn);
  each.outcome = http::Exchange::Outcome::kFailed;
  EXPECT_EQ(level_of(each), LogLevel::kError);
}

}  // namespace
}  // namespace common
