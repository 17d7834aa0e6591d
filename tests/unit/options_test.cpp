#include "common/options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace common {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

TEST(Duration, IsReadInMillisecondsAndSeconds) {
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("1s"), 1000ms);
  EXPECT_EQ(parse_duration("1.5s"), 1500ms);
  EXPECT_EQ(parse_duration("0s"), 0ms);
  EXPECT_EQ(parse_duration("0ms"), 0ms);
  EXPECT_EQ(parse_duration("1.005s"), 1005ms);
  EXPECT_EQ(parse_duration("86400s"), 86'400'000ms);
}

TEST(Duration, NeedsANumberAndAUnitAndNothingElse) {
  for (const std::string text : {"",           "s",          "ms",    "1",
                                 "1.5",        "1m",         "1h",    "1us",
                                 "1S",         "1 s",        " 1s",   "1s ",
                                 "1s1s",       "1sms",       "-1s",   "-0.001s",
                                 "+1s",        "1e3s",       "0x1s",  "1,5s",
                                 "1..5s",      "infs",       "nans",  "infinitys",
                                 "86400.001s", "86400001ms", "1e99s", "99999999999999999999s",
                                 "\0s"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  }
}

TEST(Duration, IsWrittenAsItIsRead) {
  EXPECT_EQ(to_text(0ms), "0s");
  EXPECT_EQ(to_text(250ms), "250ms");
  EXPECT_EQ(to_text(1500ms), "1500ms");
  for (const int count : {0, 1, 999, 1000, 1001, 60'000, 86'400'000}) {
    EXPECT_EQ(parse_duration(to_text(Duration(count))), Duration(count));
  }
}

/// Sets a variable of the environment, and takes it back.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

struct Parsed {
  Options options;
  int calls = 64;
  Duration timeout{1000};
  std::string url = "http://127.0.0.1:8080";
  std::optional<int> code;
  std::string out;
  std::string err;
};

Parsed parse(std::vector<const char*> flags) {
  Parsed result;
  OptionParser parser("service-x", "Does something.", result.options);
  parser.add_number("--max-upstream-calls", result.calls, 1, 1'000, "Calls");
  parser.add_duration("--timeout", result.timeout, Duration(1), "Budget");
  parser.add_url("--service-a-url", result.url, "Where");
  flags.insert(flags.begin(), "service-x");
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  result.code = parser.parse(static_cast<int>(flags.size()), flags.data());
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

class OptionParserTest : public testing::Test {
 protected:
  OptionParserTest() {
    for (const char* name :
         {"HOST", "PORT", "LOG_LEVEL", "LOG_FORMAT", "MAX_CONNECTIONS", "DRAIN_DELAY",
          "DRAIN_TIMEOUT", "TIMEOUT", "MAX_UPSTREAM_CALLS", "SERVICE_A_URL"}) {
      unsetenv(name);
    }
  }
};

TEST_F(OptionParserTest, LeavesTheDefaults) {
  const auto parsed = parse({});
  EXPECT_EQ(parsed.code, std::nullopt) << parsed.err;
  EXPECT_EQ(parsed.options.host, "127.0.0.1");
  EXPECT_EQ(parsed.options.log_level, "info");
  EXPECT_EQ(parsed.options.log_format, "auto");
  EXPECT_EQ(parsed.options.max_connections, 10'000);
  EXPECT_EQ(parsed.options.drain_delay, 0ms);
  EXPECT_EQ(parsed.options.drain_timeout, 10s);
  EXPECT_EQ(parsed.timeout, 1s);
}

TEST_F(OptionParserTest, TakesFlags) {
  const auto parsed =
      parse({"--host=::1", "--port", "0", "--log-level=ERROR", "--log-format=Json",
             "--max-connections=1", "--drain-delay=1.5s", "--drain-timeout=0s", "--timeout=1ms",
             "--max-upstream-calls=1000", "--service-a-url=http://a:1/"});
  EXPECT_EQ(parsed.code, std::nullopt) << parsed.err;
  EXPECT_EQ(parsed.options.host, "::1");
  EXPECT_EQ(parsed.options.port, 0);
  EXPECT_EQ(parsed.options.log_level, "error");
  EXPECT_EQ(parsed.options.log_format, "json");
  EXPECT_EQ(parsed.options.max_connections, 1);
  EXPECT_EQ(parsed.options.drain_delay, 1500ms);
  EXPECT_EQ(parsed.options.drain_timeout, 0ms);
  EXPECT_EQ(parsed.timeout, 1ms);
  EXPECT_EQ(parsed.calls, 1'000);
  EXPECT_EQ(parsed.url, "http://a:1/");
}

TEST_F(OptionParserTest, AFlagWinsOverTheEnvironmentWhichWinsOverTheDefault) {
  const Variable port("PORT", "81");
  const Variable delay("DRAIN_DELAY", "2s");
  EXPECT_EQ(parse({}).options.port, 81);
  EXPECT_EQ(parse({}).options.drain_delay, 2s);
  EXPECT_EQ(parse({"--port=82"}).options.port, 82);
}

TEST_F(OptionParserTest, TheLastOfTwoFlagsWins) {
  EXPECT_EQ(parse({"--port=1", "--port=2"}).options.port, 2);
}

TEST_F(OptionParserTest, AWrongValueIsOneLineThatNamesFlagValueAndWhatIsAccepted) {
  struct Wrong {
    const char* flag;
    const char* value;
    const char* accepted;
  };
  for (const auto& [flag, value, accepted] :
       std::vector<Wrong>{{"--port", "65536", "0 to 65535"},
                          {"--port", "-1", "0 to 65535"},
                          {"--port", "80x", "0 to 65535"},
                          {"--port", "1.5", "0 to 65535"},
                          {"--port", "99999999999999999999", "0 to 65535"},
                          {"--log-level", "loud", "debug, info, warn, error or off"},
                          {"--log-format", "xml", "auto, text, logfmt or json"},
                          {"--max-connections", "0", "1 to 1000000"},
                          {"--drain-delay", "5", "250ms, 1s or 1.5s"},
                          {"--timeout", "0s", "from 1ms"},
                          {"--timeout", "2d", "250ms, 1s or 1.5s"},
                          {"--max-upstream-calls", "1001", "1 to 1000"},
                          {"--service-a-url", "https://a", "http://host[:port]"}}) {
    const auto given = std::string(flag) + "=" + value;
    const auto parsed = parse({given.c_str()});
    EXPECT_EQ(parsed.code, 2) << given;
    EXPECT_THAT(parsed.err, HasSubstr(flag)) << given;
    EXPECT_THAT(parsed.err, HasSubstr("'" + std::string(value) + "'")) << given;
    EXPECT_THAT(parsed.err, HasSubstr(accepted)) << given;
    EXPECT_EQ(std::count(parsed.err.begin(), parsed.err.end(), '\n'), 1) << parsed.err;
    EXPECT_EQ(parsed.out, "") << given;
  }
}

TEST_F(OptionParserTest, AWrongVariableIsRefusedByItsName) {
  const Variable port("PORT", "http");
  const auto parsed = parse({});
  EXPECT_EQ(parsed.code, 2);
  EXPECT_THAT(parsed.err, HasSubstr("'http'"));
  EXPECT_THAT(parsed.err, HasSubstr("environment variable PORT"));
}

TEST_F(OptionParserTest, UnknownFlagsAndStrayWordsAreRefused) {
  for (const char* flag : {"--no-such-flag", "-x", "word", "--port", "--host="}) {
    const auto parsed = parse({flag});
    EXPECT_EQ(parsed.code, 2) << flag;
    EXPECT_THAT(parsed.err, HasSubstr("service-x: ")) << flag;
    EXPECT_EQ(std::count(parsed.err.begin(), parsed.err.end(), '\n'), 1) << parsed.err;
  }
}

TEST_F(OptionParserTest, HelpNamesFlagsVariablesDefaultsAndExitCodes) {
  const auto parsed = parse({"--help"});
  EXPECT_EQ(parsed.code, 0);
  EXPECT_EQ(parsed.err, "");
  for (const char* text : {"--port", "PORT", "--drain-timeout", "DRAIN_TIMEOUT", "10s", "10000",
                           "logfmt", "127.0.0.1", "Exit codes"}) {
    EXPECT_THAT(parsed.out, HasSubstr(text));
  }
}

TEST_F(OptionParserTest, VersionIsOneLine) {
  const auto parsed = parse({"--version"});
  EXPECT_EQ(parsed.code, 0);
  EXPECT_THAT(parsed.out, testing::MatchesRegex("service-x [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace common
