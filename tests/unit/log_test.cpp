#include "common/log.hpp"

#include <gtest/gtest.h>
#include <spdlog/pattern_formatter.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/log_lines.hpp"

namespace common {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;

const auto kTime =
    std::chrono::system_clock::time_point(1'795'416'421s) + std::chrono::microseconds(123'456);

// The whole line, without its end.
std::string line_of(LogFormat format, const std::string& text,
                    spdlog::level::level_enum level = spdlog::level::info, bool journal = false,
                    bool colour = false) {
  spdlog::memory_buf_t line;
  make_formatter(format, journal, colour)->format({kTime, {}, "service-a", level, text}, line);
  EXPECT_EQ(line[line.size() - 1], '\n');
  return {line.data(), line.size() - 1};
}

std::string line_of(LogFormat format, const std::vector<LogField>& fields) {
  return line_of(format, event_text(format, "m", fields));
}

// More of it the services' own logs show: integration/log_test.cpp, systemd_test.cpp.
TEST(LogLine, HasTheFormThatIsAskedFor) {
  setenv("TZ", "UTC-2", 1);  // two hours east
  tzset();
  const auto line = [](LogFormat format, spdlog::level::level_enum level, bool journal,
                       bool colour) {
    return line_of(format, event_text(format, "m", {{"status", "200", true}, {"why", "a b"}}),
                   level, journal, colour);
  };
  EXPECT_EQ(line(LogFormat::kJson, spdlog::level::warn, false, true),
            "{\"time\":\"2026-11-23T06:47:01.123456Z\",\"level\":\"warn\",\"service\":"
            "\"service-a\",\"msg\":\"m\",\"status\":200,\"why\":\"a b\"}");
  EXPECT_EQ(line(LogFormat::kText, spdlog::level::info, false, false),
            "08:47:01.123 info  service-a m status=200 why=\"a b\"");
  EXPECT_EQ(line(LogFormat::kText, spdlog::level::err, false, true),
            "08:47:01.123 \x1b[31merror\x1b[m service-a m status=200 why=\"a b\"");
  EXPECT_EQ(line(LogFormat::kText, spdlog::level::debug, true, false),
            "<7>08:47:01.123 debug service-a m status=200 why=\"a b\"");
  unsetenv("TZ");
  tzset();
}

TEST(LogLine, QuotesAValueOnlyWhereItMust) {
  const auto value = [](const std::string& text) {
    return event_text(LogFormat::kLogfmt, "m", {{"k", text}}).substr("msg=m k="s.size());
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

// What terminals and readers of lines act on must not get through, whoever sends it.
TEST(LogLine, LetsNoValueForgeALineAFieldOrAColour) {
  std::mt19937 random(20261123);
  const std::string nasty = " =\"\\\n\r\t\0\x1b\x7f\x80\xc2\x85\xe2\xa8,{}:az"s;
  for (int round = 0; round < 5'000; ++round) {
    std::string value;
    for (auto left = random() % 12; left > 0; --left) value += nasty[random() % nasty.size()];
    const std::vector<LogField> fields{{"endpoint", value}, {"status", "200", true}};

    const auto json = line_of(LogFormat::kJson, fields);
    const auto parsed = nlohmann::json::parse(json, nullptr, false);
    ASSERT_TRUE(parsed.is_object()) << json;
    ASSERT_EQ(parsed.size(), 6u) << json;
    ASSERT_EQ(parsed["status"], 200) << json;

    const auto line = line_of(LogFormat::kLogfmt, fields);
    const auto read = tests::parse_logfmt(line);
    ASSERT_TRUE(read) << line;
    ASSERT_EQ(read->size(), 6u) << line;
    ASSERT_EQ(read->at("endpoint"), parsed["endpoint"].get<std::string>()) << line;

    auto each = exchange();
    each.method = each.endpoint = value;
    each.note("error", value);
    const auto text_line = request_text(LogFormat::kText, each);
    ASSERT_TRUE(text_line.ends_with(" r")) << text_line;

    for (const auto& text : {json, line, text_line, event_text(LogFormat::kText, value, {})}) {
      for (const char c : text) {
        ASSERT_TRUE(c >= 0x20 && static_cast<unsigned char>(c) < 0x7f)
            << testing::PrintToString(text);
      }
    }
  }
}

TEST(RequestText, IsInTheOrderOfTheContract) {
  auto each = exchange();
  each.note("upstream_ms", "0.287", true);
  each.note("reason", "timeout");
  each.note("error", "service-a is slow");
  EXPECT_EQ(request_text(LogFormat::kLogfmt, each),
            "method=GET endpoint=/call-echo status=503 latency_ms=12.034 upstream_ms=0.287 "
            "reason=timeout error=\"service-a is slow\" request_id=r trace_id=t");
  EXPECT_EQ(request_text(LogFormat::kText, each),
            "GET /call-echo 503 12.034 ms timeout: service-a is slow r");
}

TEST(RequestText, OfA200FitsInto100Columns) {
  auto each = exchange();
  each.status = 200;
  each.request_id = std::string(32, 'f');
  const auto line = "[B] " + line_of(LogFormat::kText, request_text(LogFormat::kText, each));
  EXPECT_LE(line.size(), 100u) << line;
}

TEST(RequestText, IsBoundedAndHasADashForWhatIsNotKnown) {
  auto each = exchange();
  each.method = std::string(8'000, 'M');
  each.endpoint = "/" + std::string(8'000, 'a');
  EXPECT_EQ(request_text(LogFormat::kText, each),
            std::string(32, 'M') + " /" + std::string(255, 'a') + " 503 12.034 ms r");
  EXPECT_LT(request_text(LogFormat::kLogfmt, each).size(), 400u);
  each.method.clear();
  each.endpoint.clear();
  EXPECT_EQ(request_text(LogFormat::kText, each), "- - 503 12.034 ms r");
}

}  // namespace
}  // namespace common
