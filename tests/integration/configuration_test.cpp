#include "integration/harness.hpp"
#include "support/network.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

struct Flag {
  std::string flag;
  // Values as the start line has them.
  std::string by_default;
  std::string by_environment;
  std::string by_flag;
  std::string in_help{};  // its default there, where that is written in another way
};

std::string variable(std::string flag) {
  flag.erase(0, 2);
  for (char& c : flag) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return flag;
}

// In the start line.
std::string field(std::string flag) {
  flag.erase(0, 2);
  std::replace(flag.begin(), flag.end(), '-', '_');
  return flag;
}

// Without --port, --admin-port and --log-format, which have tests of their own.
const std::vector<Flag> kCommonFlags{
    {"--host", "127.0.0.1", "127.0.0.2", "127.0.0.3"}, {"--log-level", "info", "debug", "info"},
    {"--max-connections", "10000", "77", "1"},         {"--idle-timeout", "75s", "20s", "500ms"},
    {"--drain-delay", "0s", "20ms", "500ms"},          {"--drain-timeout", "10s", "1500ms", "3s"},
};
const std::vector<Flag> kFlagsOfA{{"--delay", "0s", "250ms", "0s"},
                                  {"--error-rate", "0.0", "0.25", "1.0", "0"}};
const std::vector<Flag> kFlagsOfB{
    {"--service-a-url", "http://127.0.0.1:8080", "http://example.test", "http://127.0.0.1:1/"},
    {"--timeout", "1s", "250ms", "2s"},
    {"--max-upstream-calls", "64", "3", "5"}};

// That a service did not start, and said why in one line that has all of these.
void expect_refused(const Outcome& result, int code, const std::vector<std::string>& wanted) {
  EXPECT_EQ(result.code, code);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.ends_with("\n"));
  for (const char* moves_the_cursor : {"\r", "\x1b"}) {  // and hides the rest of the line
    EXPECT_EQ(result.err.find(moves_the_cursor), std::string::npos) << result.err;
  }
  for (const auto& each : wanted) {
    EXPECT_NE(result.err.find(each), std::string::npos) << each << " in " << result.err;
  }
}

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
  std::vector<std::string> arguments{"--drain-delay",
                                     "7s"};  // of a flag given twice the last counts
  for (const auto& each : flags()) {
    environment.push_back(variable(each.flag) + "=" + each.by_environment);
    arguments.push_back(each.flag + "=" + each.by_flag);
  }
  const auto by_default = started({}, {});
  const auto by_environment = started({}, environment);
  const auto by_flag = started(arguments, environment);
  for (const auto& each : flags()) {
    SCOPED_TRACE(each.flag);
    EXPECT_EQ(value(by_default, field(each.flag)), each.by_default);
    EXPECT_EQ(value(by_environment, field(each.flag)), each.by_environment);
    EXPECT_EQ(value(by_flag, field(each.flag)), each.by_flag);
  }
}

TEST_P(Configuration, ThePortComesFromFlagOrEnvironment) {
  // The one in PORT is taken, so it shows which of them is used.
  const ClosedPort taken;
  const auto environment = "PORT=" + std::to_string(taken.port());
  expect_refused(run(binary, {}, {.environment = {environment}}), 1, {"variable PORT"});
  Service by_flag(binary, {"--port=0"}, {.environment = {environment}});
  EXPECT_EQ(get(by_flag.port(), "/health").status, 200);
  EXPECT_EQ(value(start_line(by_flag), "port_from"), "(none)");
  const auto line = started({}, {"HOST=127.0.0.1", "PORT=0", "ADMIN_PORT=0"});
  for (const std::string key : {"host_from", "port_from", "admin_port_from"}) {
    EXPECT_EQ(value(line, key), "environment") << key;
  }
}

TEST_P(Configuration, TheLogFormatComesFromFlagOrEnvironment) {
  Service json(binary, {}, {.environment = {"LOG_FORMAT=json"}});
  EXPECT_TRUE(json.process().out().starts_with("{\"time\":"));
  Service logfmt(binary, {"--log-format=logfmt"}, {.environment = {"LOG_FORMAT=json"}});
  EXPECT_TRUE(logfmt.process().out().starts_with("time="));
}

TEST_P(Configuration, TheHostIsTheOnlyAddressThatIsListenedOn) {
  Service service(binary, {"--host=127.0.0.2"});
  EXPECT_TRUE(Connection(service.port(), {.host = "127.0.0.2"}).connected());
  EXPECT_FALSE(Connection(service.port()).connected());
  Service everywhere(binary, {"--host=0.0.0.0"});
  EXPECT_TRUE(Connection(everywhere.port(), {.host = "127.0.0.2"}).connected());
  EXPECT_TRUE(Connection(everywhere.port()).connected());
}

TEST_P(Configuration, TheHostOfAllIpv6AddressesIsThatOfAllIpv4AddressesToo) {
  if (!has_ipv6()) GTEST_SKIP() << "there is no IPv6 here";
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
      expect_refused(run(binary, {flag + "=" + wrong}), 2, {flag, shown, accepted});
      if (wrong.empty()) continue;  // an empty variable is as good as none
      expect_refused(run(binary, {}, {.environment = {variable(flag) + "=" + wrong}}), 2,
                     {"environment variable " + variable(flag), shown, accepted});
    }
  }
  // As a shell has it where the variable of "--port $PORT" is not set.
  expect_refused(run(binary, {"--port"}), 2, {"--port: ", "from 0 to 65535"});
  expect_refused(run(binary, {"--log-level", "--port=0"}), 2,
                 {"--log-level: ", "warn, error or off"});
  for (const std::string wrong : {"--nope", "--nope=1", "-x", "hello", "--ports=1", "--PORT=1",
                                  "--port", is_a ? "--timeout=1s" : "--delay=1s"}) {
    SCOPED_TRACE(wrong);
    expect_refused(run(binary, {wrong}), 2, {GetParam() + ": ", wrong.substr(0, wrong.find('='))});
  }
}

TEST_P(Configuration, HelpNamesEveryFlagItsDefaultAndItsVariable) {
  auto all = flags();
  all.insert(all.end(), {{"--port", is_a ? "8080" : "8081", "", ""},
                         {"--log-format", "auto", "", ""},
                         {"--admin-port", "none", "", ""}});
  for (const std::string flag : {"--help", "-h"}) {
    const auto result = run(binary, {flag});
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_NE(result.out.find("Exit codes: 0 clean stop, 1 could not run"), std::string::npos);
    for (const auto& each : all) {
      const auto text = each.flag + "=" + (each.in_help.empty() ? each.by_default : each.in_help) +
                        " (Env:" + variable(each.flag) + ")";
      EXPECT_NE(result.out.find(text), std::string::npos) << text << " in " << result.out;
    }
  }
}

TEST_P(Configuration, VersionIsOneLine) {
  const auto result = run(binary, {"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, GetParam() + " 0.2.0\n");
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(value(started({}, {}), "version"), "0.2.0");
}

TEST_P(Configuration, APortInUseIsExitCode1AndSaysHowToFindItsHolder) {
  // Once held by a copy of the service, once by somebody else.
  Service first(binary);
  FaultyUpstream somebody(right_mode());
  for (const auto port : {first.port(), somebody.port()}) {
    const auto text = std::to_string(port);
    const std::vector<std::string> wanted{"127.0.0.1:" + text, "ss -tanp", "sport = :" + text};
    expect_refused(run(binary, {"--port=" + text}), 1, wanted);
    expect_refused(run(binary, {"--port=0", "--admin-port=" + text}), 1, wanted);
  }
  EXPECT_EQ(get(first.port(), "/health").status, 200);
  // Nobody else holds it: there is no holder to look for.
  const auto free = std::to_string(ClosedPort().port());
  const auto both = run(binary, {"--port=" + free, "--admin-port=" + free});
  expect_refused(both, 1, {"--port and --admin-port are the same"});
  EXPECT_EQ(both.err.find("ss -tanp"), std::string::npos) << both.err;
}

TEST_P(Configuration, TheAdminPortHasHealthReadyAndMetricsAndALimitOfItsOwn) {
  Service service(binary, {"--admin-port=0", "--max-connections=20"});
  const auto admin =
      static_cast<std::uint16_t>(std::stoi(value(start_line(service), "admin_port")));
  const std::string own = is_a ? "/echo" : "/";
  for (const auto& [path, on_main, on_admin] : std::vector<std::tuple<std::string, int, int>>{
           {"/health", 200, 200}, {"/ready", 200, 200}, {"/metrics", 404, 200}, {own, 200, 404}}) {
    EXPECT_EQ(get(service.port(), path).status, on_main) << path;
    EXPECT_EQ(get(admin, path).status, on_admin) << path;
  }
  const auto crowd = connect_and_send(service.port(), 20, "");
  EXPECT_TRUE(eventually([&] { return get(service.port(), "/health").status == 503; }));
  EXPECT_EQ(get(admin, "/health").status, 200);
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
    expect_refused(run(binary, {"--host=" + host, "--port=0"}), 1, {host});
  }
  expect_refused(run(binary, {"--host=fe80::1%nope", "--port=0"}), 1,
                 {"on [fe80::1%nope]:0: Name or service not known\n"});
  expect_refused(run(binary, {"--port=0"}, {.environment = {"HOST=no-such-host.invalid"}}), 1,
                 {"environment variable HOST"});
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
    auto fitting = connect_and_send(service.port(), static_cast<std::size_t>(lowered), kHealth);
    for (auto& each : fitting) ASSERT_EQ(ask(each, "").status, 200);
    EXPECT_EQ(get(service.port(), "/health").status, 503);
  }
}

TEST_P(Configuration, SixtyFourFilesAreEnoughForBothPorts) {
  Service service(binary, {"--admin-port=0"}, {.max_open_files = 64});
  const auto line = start_line(service);
  const auto admin = static_cast<std::uint16_t>(std::stoi(value(line, "admin_port")));
  for (const auto port : {service.port(), admin}) EXPECT_EQ(get(port, "/ready").status, 200);
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
