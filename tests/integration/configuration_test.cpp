#include <fstream>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

struct Flag {
  std::string flag;
  std::string value;    // not the default
  std::string other;    // not the default either
  std::string field{};  // its name in the start line; empty: not there
  std::string shown{};  // `value` as the start line has it; empty: as it is
  std::string wins{};   // the same for `other`
};

std::string variable(std::string flag) {
  flag.erase(0, 2);
  for (char& c : flag) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return flag;
}

// Without --port, --log-level and --log-format, which have tests of their own.
const std::vector<Flag> kCommonFlags{
    {"--host", "127.0.0.2", "127.0.0.3", "host"},
    {"--max-connections", "77", "1", "max_connections"},
    {"--idle-timeout", "20s", "0.5s", "idle_timeout", "20s", "500ms"},
    {"--drain-delay", "20ms", "0.5s", "drain_delay", "20ms", "500ms"},
    {"--drain-timeout", "1.5s", "3000ms", "drain_timeout", "1500ms", "3s"},
};
const std::vector<Flag> kFlagsOfA{{"--delay", "250ms", "0ms", "delay", "", "0s"},
                                  {"--error-rate", "0.25", "1", "error_rate", "", "1.0"}};
const std::vector<Flag> kFlagsOfB{
    {"--service-a-url", "http://example.test", "http://127.0.0.1:1/", "service_a_url"},
    {"--timeout", "250ms", "2s", "timeout"},
    {"--max-upstream-calls", "3", "64", "max_upstream_calls"},
};

struct Configuration : EachService {
  std::vector<Flag> flags() const {
    auto all = kCommonFlags;
    const auto& own = is_a ? kFlagsOfA : kFlagsOfB;
    all.insert(all.end(), own.begin(), own.end());
    return all;
  }

  LogLine started(std::vector<std::string> arguments, std::vector<std::string> environment) {
    Service service(binary, std::move(arguments), {.environment = std::move(environment)});
    return start_line(service);
  }
};

TEST_P(Configuration, AFlagWinsOverTheEnvironmentWhichWinsOverTheDefault) {
  std::vector<std::string> environment;
  std::vector<std::string> others;
  for (const auto& [flag, first, other, field, shown, wins] : flags()) {
    environment.push_back(variable(flag) + "=" + first);
    others.push_back(flag + "=" + other);
  }
  const auto defaults = started({}, {});
  const auto by_environment = started({}, environment);
  others.insert(others.begin(), {"--drain-delay", "7s"});  // of a flag given twice the last counts
  const auto by_flag = started(others, environment);
  for (const auto& [flag, first, other, field, shown, wins] : flags()) {
    SCOPED_TRACE(flag);
    EXPECT_NE(value(defaults, field), "(none)");
    EXPECT_EQ(value(by_environment, field), shown.empty() ? first : shown);
    EXPECT_EQ(value(by_flag, field), wins.empty() ? other : wins);
  }
}

TEST_P(Configuration, TheDefaultsAreThoseOfTheContract) {
  LogLine expected{{"version", "0.2.0"},  {"host", "127.0.0.1"},    {"log_level", "info"},
                   {"level", "info"},     {"service", GetParam()},  {"max_connections", "10000"},
                   {"drain_delay", "0s"}, {"drain_timeout", "10s"}, {"idle_timeout", "75s"}};
  expected.merge(is_a ? LogLine{{"delay", "0s"}, {"error_rate", "0.0"}}
                      : LogLine{{"service_a_url", "http://127.0.0.1:8080"},
                                {"timeout", "1s"},
                                {"max_upstream_calls", "64"}});
  const auto line = started({}, {});
  for (const auto& [field, wanted] : expected) EXPECT_EQ(value(line, field), wanted) << field;
  // --port has to be told here: the default may be taken on this machine.
  const auto help = run(binary, {"--help"}).out;
  EXPECT_NE(help.find(is_a ? "--port=8080 " : "--port=8081 "), std::string::npos) << help;
  EXPECT_NE(help.find("--log-format=auto "), std::string::npos) << help;
  EXPECT_NE(help.find("--admin-port=none "), std::string::npos) << help;
}

TEST_P(Configuration, ThePortComesFromFlagOrEnvironment) {
  // The one in PORT is taken, so it shows which of them is used.
  const ClosedPort taken;
  const auto environment = "PORT=" + std::to_string(taken.port());
  EXPECT_EQ(run(binary, {}, {.environment = {environment}}).code, 1);
  Service by_flag(binary, {"--port=0"}, {.environment = {environment}});
  EXPECT_EQ(get(by_flag.port(), "/health").status(), 200);
}

TEST_P(Configuration, TheLogFormatAndLevelComeFromFlagOrEnvironment) {
  Service json(binary, {}, {.environment = {"LOG_FORMAT=json"}});
  EXPECT_TRUE(json.process().out().starts_with("{\"time\":"));
  Service logfmt(binary, {"--log-format=logfmt"}, {.environment = {"LOG_FORMAT=json"}});
  EXPECT_TRUE(logfmt.process().out().starts_with("time="));
  EXPECT_EQ(value(started({}, {"LOG_LEVEL=debug"}), "log_level"), "debug");
  EXPECT_EQ(value(started({"--log-level=Info"}, {"LOG_LEVEL=error"}), "log_level"), "info");
}

TEST_P(Configuration, TheHostIsTheOnlyAddressThatIsListenedOn) {
  Service service(binary, {"--host=127.0.0.2"});
  EXPECT_TRUE(Connection(service.port(), "127.0.0.2").connected());
  EXPECT_FALSE(Connection(service.port(), "127.0.0.1").connected());
  Service everywhere(binary, {"--host=0.0.0.0"});
  EXPECT_TRUE(Connection(everywhere.port(), "127.0.0.2").connected());
  EXPECT_TRUE(Connection(everywhere.port(), "127.0.0.1").connected());
}

TEST_P(Configuration, TheHostOfAllIpv6AddressesIsThatOfAllIpv4AddressesToo) {
  std::ifstream ipv6("/proc/net/if_inet6");
  if (ipv6.peek() == std::ifstream::traits_type::eof()) GTEST_SKIP() << "there is no IPv6 here";
  for (const std::string host : {"::", "0::0", "::ffff:127.0.0.1"}) {
    const Service service(binary, {"--host=" + host});
    const auto port = "--port=" + std::to_string(service.port());
    EXPECT_TRUE(Connection(service.port()).connected()) << host;
    EXPECT_EQ(run(binary, {"--check", "--host=" + host, port}).code, 0) << host;
  }
}

TEST_P(Configuration, AWrongValueIsOneClearLineAndExitCode2) {
  const std::vector<std::string> numbers{"",     "abc",     "-1", "1.5", "99999999999999999999",
                                         "0x10", "1 ",      " 1", "+1",  "1\r",
                                         "1\n",  "\x1b[2K1"};
  // More of them are refused by the functions that read them: unit/options_test.cpp, url_test.cpp.
  const std::vector<std::string> durations{"", "5", "abc", "-1s", "1m", "1 s", "99999999s"};
  const std::vector<std::string> urls{"",           "x",          "https://x",
                                      "http://x:0", "http://x/y", "http://x\r\nA: b"};
  // Flag, wrong values, and what the line must say is accepted.
  std::vector<std::tuple<std::string, std::vector<std::string>, std::string>> table{
      {"--host",
       {"", "127.0.0.1:9000", "[::]", "http://a", "a b", "::g", "fe80::1%", "fe80::1%a b"},
       "without scheme, brackets or port"},
      {"--admin-port", {"x", "-1", "65536"}, "from 0 to 65535"},
      {"--idle-timeout", {"0s", "75"}, "250ms, 1s or 1.5s"},
      {"--port", numbers, "from 0 to 65535"},
      {"--port", {"65536"}, "from 0 to 65535"},
      {"--log-level", {"", "trace", "1", "info "}, "debug, info, warn, error or off"},
      {"--log-format", {"", "xml"}, "auto, text, logfmt or json"},
      {"--max-connections", numbers, "from 1 to"},
      {"--max-connections", {"0"}, "from 1 to"},
      {"--drain-delay", durations, "250ms, 1s or 1.5s"},
      {"--drain-timeout", durations, "250ms, 1s or 1.5s"}};
  if (is_a) {
    table.insert(table.end(), {{"--delay", durations, "250ms, 1s or 1.5s"},
                               {"--error-rate", {"", "-0.1", "1.1", "x", "nan"}, "from 0 to 1"}});
  } else {
    table.insert(table.end(), {{"--service-a-url", urls, "http://host[:port]"},
                               {"--timeout", durations, "250ms, 1s or 1.5s"},
                               {"--timeout", {"0s"}, "250ms, 1s or 1.5s"},
                               {"--max-upstream-calls", numbers, "from 1 to"},
                               {"--max-upstream-calls", {"0"}, "from 1 to"}});
  }
  const auto expect_refused = [](const Outcome& result, const std::vector<std::string>& wanted) {
    EXPECT_EQ(result.code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(result.err.ends_with("\n"));
    for (const char* moves_the_cursor : {"\r", "\x1b"}) {  // and hides the rest of the line
      EXPECT_EQ(result.err.find(moves_the_cursor), std::string::npos) << result.err;
    }
    for (const auto& each : wanted) {
      EXPECT_NE(result.err.find(each), std::string::npos) << each << " in " << result.err;
    }
  };
  for (const auto& [flag, values, accepted] : table) {
    for (const auto& wrong : values) {
      SCOPED_TRACE(testing::Message() << flag << "='" << wrong << "'");
      std::string shown = "'";
      for (const char c : wrong) {
        shown += c == '\r'     ? "\\r"
                 : c == '\n'   ? "\\n"
                 : c == '\x1b' ? "\\u001b"
                               : std::string(1, c);
      }
      shown += "'";
      expect_refused(run(binary, {flag + "=" + wrong}), {flag, shown, accepted});
      if (wrong.empty()) continue;  // an empty variable is as good as none
      expect_refused(run(binary, {}, {.environment = {variable(flag) + "=" + wrong}}),
                     {"environment variable " + variable(flag), shown, accepted});
    }
  }
  // As a shell has it where the variable of "--port $PORT" is not set.
  expect_refused(run(binary, {"--port"}), {"--port: ", "from 0 to 65535"});
  expect_refused(run(binary, {"--log-level", "--port=0"}), {"--log-level: ", "warn, error or off"});
  for (const std::string wrong : {"--nope", "--nope=1", "-x", "hello", "--ports=1", "--PORT=1",
                                  "--port", is_a ? "--timeout=1s" : "--delay=1s"}) {
    SCOPED_TRACE(wrong);
    expect_refused(run(binary, {wrong}), {GetParam() + ": ", wrong.substr(0, wrong.find('='))});
  }
}

TEST_P(Configuration, HelpNamesEveryFlagAndItsVariable) {
  for (const std::string flag : {"--help", "-h"}) {
    const auto result = run(binary, {flag});
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_NE(result.out.find("Exit codes: 0 clean stop, 1 could not run"), std::string::npos);
    auto all = flags();
    for (const auto* other : {"--port", "--log-level", "--log-format", "--admin-port"}) {
      all.push_back({other, "", ""});
    }
    for (const auto& each : all) {
      EXPECT_NE(result.out.find(each.flag + "="), std::string::npos) << each.flag;
      EXPECT_NE(result.out.find(variable(each.flag)), std::string::npos) << each.flag;
    }
  }
}

TEST_P(Configuration, VersionIsOneLine) {
  const auto result = run(binary, {"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, GetParam() + " " + value(started({}, {}), "version") + "\n");
  EXPECT_EQ(result.err, "");
}

TEST_P(Configuration, APortInUseIsExitCode1AndSaysHowToFindItsHolder) {
  // Once held by a copy of the service, once by somebody else.
  Service first(binary);
  FaultyUpstream somebody(right_mode());
  for (const auto port : {first.port(), somebody.port()}) {
    const auto text = std::to_string(port);
    const auto result = run(binary, {"--port=" + text});
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find("127.0.0.1:" + text), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("ss -ltnp"), std::string::npos) << result.err;
    const auto admin = run(binary, {"--port=0", "--admin-port=" + text});
    EXPECT_EQ(admin.code, 1);
    EXPECT_NE(admin.err.find("sport = :" + text), std::string::npos) << admin.err;
  }
  EXPECT_EQ(get(first.port(), "/health").status(), 200);
  // Nobody else holds it: there is no holder to look for.
  const auto free = std::to_string(ClosedPort().port());
  const auto both = run(binary, {"--port=" + free, "--admin-port=" + free});
  EXPECT_EQ(both.code, 1);
  EXPECT_NE(both.err.find("--port and --admin-port are the same"), std::string::npos) << both.err;
  EXPECT_EQ(both.err.find("ss -ltnp"), std::string::npos) << both.err;
}

TEST_P(Configuration, TheAdminPortHasHealthReadyAndMetricsAndALimitOfItsOwn) {
  Service service(binary, {"--admin-port=0", "--max-connections=20"});
  const auto admin =
      static_cast<std::uint16_t>(std::stoi(value(start_line(service), "admin_port")));
  const std::string own = is_a ? "/echo" : "/";
  for (const auto& [path, on_main, on_admin] : std::vector<std::tuple<std::string, int, int>>{
           {"/health", 200, 200}, {"/ready", 200, 200}, {"/metrics", 404, 200}, {own, 200, 404}}) {
    EXPECT_EQ(get(service.port(), path).status(), on_main) << path;
    EXPECT_EQ(get(admin, path).status(), on_admin) << path;
  }
  std::vector<Connection> crowd;
  for (int i = 0; i < 20; ++i) crowd.emplace_back(service.port());
  EXPECT_TRUE(eventually([&] { return get(service.port(), "/health").status() == 503; }));
  EXPECT_EQ(get(admin, "/health").status(), 200);
  // It is what --check asks.
  const auto port = "--port=" + std::to_string(service.port());
  EXPECT_EQ(run(binary, {port, "--admin-port=" + std::to_string(admin), "--check"}).code, 0);
  EXPECT_EQ(run(binary, {port, "--admin-port=1", "--check"}).code, 1);
}

TEST_P(Configuration, ListensOnAllAddressesOfANameOrOnNone) {
  Service service(binary, {"--host=localhost"});
  const auto line = start_line(service);
  const auto port = std::to_string(service.port());
  EXPECT_EQ(value(line, "host"), "127.0.0.1");
  EXPECT_NE(value(line, "addresses").find("127.0.0.1:" + port), std::string::npos);
  EXPECT_EQ(run(binary, {"--host=localhost", "--port=" + port}).code, 1) << "a second copy";
}

TEST_P(Configuration, TooFewFilesToRunIsExitCode1) {
  const auto result = run(binary, {"--port=0"}, {.max_open_files = 27});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, GetParam() +
                            ": cannot run: the limit of open files (27) is too low to serve "
                            "anyone; see ulimit -n\n");
}

TEST_P(Configuration, AnAddressThatIsNotOursIsExitCode1) {
  for (const std::string host : {"192.0.2.1", "no-such-host.invalid"}) {
    const auto result = run(binary, {"--host=" + host, "--port=0"});
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(host), std::string::npos) << result.err;
  }
  const auto wrong = run(binary, {"--port=0"}, {.environment = {"HOST=no-such-host.invalid"}});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_NE(wrong.err.find("environment variable HOST"), std::string::npos) << wrong.err;
}

TEST_P(Configuration, MaxConnectionsIsLoweredToTheFileLimitWithAWarning) {
  for (const std::uint64_t files : {28U, 200U}) {  // 28 are the fewest
    SCOPED_TRACE(files);
    Service service(binary, {}, {.max_open_files = files});
    const auto warning = line_with(service.process(), "level", "warn");
    const auto msg = value(warning, "msg");
    EXPECT_NE(msg.find(std::to_string(files)), std::string::npos) << msg;
    const auto lowered = std::stoi(value(start_line(service), "max_connections"));
    EXPECT_GT(lowered, 0);
    EXPECT_LT(lowered, static_cast<int>(files));
    EXPECT_NE(msg.find("max_connections is now " + std::to_string(lowered)), std::string::npos);
    // As many fit indeed, and the next one is told so.
    std::vector<Connection> connections;
    for (int i = 0; i < lowered; ++i) {
      ASSERT_EQ(ask(connections.emplace_back(service.port()), kHealth).status, 200) << i;
    }
    EXPECT_EQ(get(service.port(), "/health").status(), 503);
  }
}

TEST_P(Configuration, SixtyFourFilesAreEnoughForBothPorts) {
  Service service(binary, {"--admin-port=0"}, {.max_open_files = 64});
  const auto line = start_line(service);
  const auto admin = static_cast<std::uint16_t>(std::stoi(value(line, "admin_port")));
  for (const auto port : {service.port(), admin}) EXPECT_EQ(get(port, "/ready").status(), 200);
}

TEST_P(Configuration, MaxConnectionsThatFitAreLeftAlone) {
  for (const std::uint64_t files : {90U, 1'024U}) {
    Service service(binary, {"--max-connections=5"}, {.max_open_files = files});
    EXPECT_EQ(value(start_line(service), "max_connections"), "5");
    // Of the calls of B there may be fewer, with a warning.
    EXPECT_EQ(log_lines(service.process()).size(), files == 90 && !is_a ? 2U : 1U);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Configuration, testing::Values("service-a", "service-b"),
                         service_name);

}  // namespace
}  // namespace tests
