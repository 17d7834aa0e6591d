#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::string kCall = "/call-echo?msg=hello";

// The keys of a logfmt line, in order. Values of the lines it is used for hold no spaces.
std::vector<std::string> keys_in_order(const std::string& line) {
  static const std::regex key("(^| )([a-z_]+)=");
  std::vector<std::string> result;
  for (std::sregex_iterator each(line.begin(), line.end(), key), end; each != end; ++each) {
    result.push_back((*each)[2]);
  }
  return result;
}

// The lines about requests, raw.
std::vector<std::string> raw_request_lines(const Process& process) {
  auto lines = process.lines();
  std::erase_if(lines, [](const std::string& line) {
    return line.find(" endpoint=") == std::string::npos &&
           line.find("\"endpoint\":") == std::string::npos;
  });
  return lines;
}

bool matches(const std::string& text, const char* pattern) {
  return std::regex_match(text, std::regex(pattern));
}

void expect_sound(const LogLine& line, const std::string& service) {
  EXPECT_TRUE(matches(value(line, "time"), R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"))
      << value(line, "time");
  EXPECT_TRUE(matches(value(line, "level"), "debug|info|warn|error")) << value(line, "level");
  EXPECT_EQ(value(line, "service"), service);
  if (!line.contains("method")) return;
  EXPECT_TRUE(matches(value(line, "status"), "[1-5][0-9][0-9]"));
  EXPECT_TRUE(matches(value(line, "latency_ms"), R"(\d+\.\d+)")) << value(line, "latency_ms");
  EXPECT_TRUE(matches(value(line, "request_id"), "[A-Za-z0-9._-]{1,128}"));
  EXPECT_TRUE(matches(value(line, "trace_id"), "[0-9a-f]{32}"));
}

struct LogOf : testing::TestWithParam<std::string> {
  const std::string format = "--log-format=" + GetParam();
};

TEST_P(LogOf, ARequestIsOneLineWithTheFieldsInThisOrder) {
  auto a = start_a({format});
  auto b = start_b(a.url(), {format});
  const auto result = get(b.port(), kCall + "&secret=1");
  ASSERT_EQ(result.status(), 200);
  const auto line_of_b = line_of(b.process(), *result.response);
  const auto line_of_a = line_of(a.process(), *result.response);
  expect_sound(line_of_a, "service-a");
  expect_sound(line_of_b, "service-b");
  EXPECT_EQ(value(line_of_a, "endpoint"), "/echo");
  EXPECT_EQ(value(line_of_b, "endpoint"), "/call-echo");
  for (const auto* line : {&line_of_a, &line_of_b}) {
    EXPECT_EQ(value(*line, "level"), "info");
    EXPECT_EQ(value(*line, "method"), "GET");
    EXPECT_EQ(value(*line, "status"), "200");
    EXPECT_FALSE(line->contains("reason"));
    EXPECT_FALSE(line->contains("error"));
  }
  EXPECT_FALSE(line_of_a.contains("upstream_ms"));
  EXPECT_TRUE(matches(value(line_of_b, "upstream_ms"), R"(\d+\.\d+)"));
  EXPECT_EQ(value(line_of_a, "trace_id"), value(line_of_b, "trace_id"));
  EXPECT_EQ(b.process().out().find("secret"), std::string::npos);  // no query in the log

  const auto raw = raw_request_lines(b.process());
  ASSERT_EQ(raw.size(), 1U);
  const std::vector<std::string> order{"time",       "level",   "service",    "method",
                                       "endpoint",   "status",  "latency_ms", "upstream_ms",
                                       "request_id", "trace_id"};
  if (GetParam() == "logfmt") {
    EXPECT_EQ(keys_in_order(raw.front()), order);
    return;
  }
  const auto json = nlohmann::ordered_json::parse(raw.front());
  std::vector<std::string> keys;
  for (const auto& [key, field] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, order);
  for (const auto* number : {"status", "latency_ms", "upstream_ms"}) {
    EXPECT_TRUE(json[number].is_number()) << number;
  }
}

TEST_P(LogOf, AFailureOfAHasReasonAndError) {
  FaultyUpstream upstream(mode_named("status-418"));
  auto b = start_b(upstream.url(), {format});
  const auto bad_status = line_of(b.process(), *get(b.port(), kCall).response);
  expect_sound(bad_status, "service-b");
  EXPECT_EQ(value(bad_status, "level"), "error");
  EXPECT_EQ(value(bad_status, "status"), "503");
  EXPECT_EQ(value(bad_status, "reason"), "bad_status");
  EXPECT_EQ(value(bad_status, "upstream_status"), "418");
  EXPECT_NE(value(bad_status, "error"), "(none)");
  EXPECT_NE(value(bad_status, "upstream_ms"), "(none)");
  upstream.set_mode(mode_named("not-json"));
  const auto not_json = line_of(b.process(), *get(b.port(), kCall).response);
  EXPECT_EQ(value(not_json, "reason"), "bad_response");
  EXPECT_FALSE(not_json.contains("upstream_status"));
}

// Paths that try to end the line, to add fields, or to be too long.
const std::vector<std::string> kHostilePaths{
    "/a%0Atime=2026-01-01T00:00:00.000000Z%20level=error",
    "/a%0D%0Alevel=error",
    "/level=error",
    "/\"level=error\"",
    "/\"%20level=error%20x=\"",
    "/a\\",
    "/a\\\"",
    "/a\\n",
    "/{\"level\":\"error\"}",
    "/\",\"level\":\"error",
    "/'",
    "/`id`$(id)",
    "/%00",
    "/%1b[31m",
    "/%FF%FE",
    "/caf\xC3\xA9",
    "/\xF0\x9F\x98\x80",
    "/=",
    "/==\"\"",
    "/a;b,c|d",
    "/" + std::string(254, 'x'),
    "/" + std::string(255, 'x'),
    "/" + std::string(256, 'x'),
    "/" + std::string(300, 'x'),
    "/" + std::string(300, '"'),
    "/" + std::string(300, '\\'),
    "/" + std::string(7000, 'x'),
};

TEST_P(LogOf, NoPathForgesALineOrAField) {
  auto a = start_a({format});
  Connection connection(a.port());
  for (const auto& path : kHostilePaths) {
    connection.send(request_text(path + "?level=error&x=\"%0Alevel=error"));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << path << ": " << connection.error();
    EXPECT_EQ(response->status, 404);
  }
  ASSERT_EQ(a.stop(), 0);
  const auto lines = request_lines(a.process());
  ASSERT_EQ(lines.size(), kHostilePaths.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    SCOPED_TRACE(kHostilePaths[i]);
    expect_sound(lines[i], "service-a");
    EXPECT_EQ(value(lines[i], "endpoint"), kHostilePaths[i].substr(0, 256));
    EXPECT_EQ(value(lines[i], "level"), "info");
    EXPECT_EQ(lines[i].size(), 9U);
  }
}

TEST_P(LogOf, BytesThatAreNotUtf8AndCutCharactersAreReplaced) {
  auto a = start_a({format});
  const std::string smile = "\xF0\x9F\x98\x80";
  const std::string replaced = "\xEF\xBF\xBD";
  const auto endpoint = [&](const std::string& path) {
    const auto result = get(a.port(), path);
    if (!result.response) return "no answer: " + result.error;
    return value(line_of(a.process(), *result.response), "endpoint");
  };
  EXPECT_EQ(endpoint("/a\xFFz"), "/a" + replaced + "z");
  EXPECT_EQ(endpoint("/" + std::string(254, 'x') + smile), "/" + std::string(254, 'x') + replaced);
}

TEST_P(LogOf, NoHeaderForgesALineOrAField) {
  auto a = start_a({format});
  const std::vector<Headers> hostile{
      {{"X-Request-ID", "a level=error"}},
      {{"X-Request-ID", "a\" level=error x=\""}},
      {{"X-Request-ID", "a\\nb"}},
      {{"X-Request-ID", "=="}},
      {{"X-Request-ID", std::string(129, 'a')}},
      {{"X-Request-ID", "\xC3\xA9"}},
      {{"traceparent", "00-\"level=error\"-x-01"}},
      {{"User-Agent", "level=error"}, {"Referer", "level=error"}, {"Cookie", "level=error"}}};
  for (const auto& headers : hostile) {
    const auto result = get(a.port(), "/health", headers);
    ASSERT_EQ(result.status(), 200) << headers.front().second;
    const auto line = line_of(a.process(), *result.response);
    expect_sound(line, "service-a");
    EXPECT_EQ(value(line, "level"), "info");
    EXPECT_EQ(line.size(), 9U);
  }
  EXPECT_EQ(a.process().out().find("level=error"), std::string::npos);
}

TEST_P(LogOf, NoMethodForgesALineOrAField) {
  auto a = start_a({format});
  for (const std::string& method :
       std::vector<std::string>{"BREW", "level", "{}", "\"GET\"", "GET'", std::string(3000, 'M')}) {
    ASSERT_NE(get(a.port(), "/health", {}, 5s, method).status(), 0) << method;
  }
  ASSERT_EQ(a.stop(), 0);
  const auto lines = request_lines(a.process());
  EXPECT_EQ(lines.size(), 6U);
  for (const auto& line : lines) {
    expect_sound(line, "service-a");
    EXPECT_LE(value(line, "method").size(), 32U);
  }
}

// Refused before a handler had a say; each must have its line nevertheless.
TEST_P(LogOf, RefusedRequestsHaveTheirLine) {
  auto a = start_a({format, "--max-connections=3"});
  const auto refused = [&](const std::string& bytes, int status) {
    Connection connection(a.port());
    connection.send(bytes);
    const auto response = connection.read_response(10s);
    ASSERT_TRUE(response) << connection.error() << " for " << bytes.substr(0, 100);
    EXPECT_EQ(response->status, status);
    const auto line = line_of(a.process(), *response);
    expect_sound(line, "service-a");
    EXPECT_EQ(value(line, "status"), std::to_string(status));
    EXPECT_EQ(value(line, "level"), status == 405 ? "info" : "warn");
  };
  refused("nonsense\r\n\r\n", 400);
  refused("GET /health HTTP/1.1\r\n\r\n", 400);
  refused(request_text("/health", "POST"), 405);
  refused("GET /health HTTP/1.1\r\nHost: x\r\n", 408);
  refused("GET /" + std::string(9000, 'x'), 414);
  refused(request_text("/health", "GET", "X: " + std::string(17'000, 'x') + "\r\n"), 431);
  refused("GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 505);
  EXPECT_EQ(request_lines(a.process()).size(), 7U);

  std::vector<Connection> connections;
  for (int i = 0; i < 3; ++i) {
    connections.emplace_back(a.port());
    connections.back().send(request_text("/health"));
    ASSERT_TRUE(connections.back().read_response());
  }
  refused(request_text("/health"), 503);
}

TEST_P(LogOf, LevelWarnLeavesOnlyTrouble) {
  const ClosedPort nobody;
  std::unique_ptr<Process> b;
  std::uint16_t port = 0;
  // The start line, which would name the port, is one of those left out.
  for (int tries = 0; port == 0 && tries < 10; ++tries) {
    const auto wanted = lasting_port();
    b = std::make_unique<Process>(
        std::vector<std::string>{kServiceB, "--port=" + std::to_string(wanted),
                                 "--service-a-url=" + nobody.url(), "--log-level=warn", format});
    if (eventually([&] { return !b->running() || get(wanted, "/health").status() == 200; },
                   kPatience) &&
        b->running()) {
      port = wanted;
    }
  }
  ASSERT_NE(port, 0);
  for (const std::string& target :
       std::vector<std::string>{"/health", "/nope", "/call-echo?msg=%FF"})
    get(port, target);
  EXPECT_EQ(get(port, kCall).status(), 503);
  EXPECT_EQ(get(port, "/health", {{"Bad Name", "x"}}).status(), 400);
  b->signal(SIGTERM);
  ASSERT_EQ(b->wait(kPatience), 0);
  const auto lines = log_lines(*b);
  ASSERT_EQ(lines.size(), 2U) << b->out();
  EXPECT_EQ(value(lines[0], "level"), "error");
  EXPECT_EQ(value(lines[1], "level"), "warn");
  EXPECT_EQ(value(lines[1], "status"), "400");
}

TEST_P(LogOf, ALineIsOutWithin200Milliseconds) {
  auto a = start_a({format});
  const auto timings = time_at_once(20, [&](std::size_t i) {
    const auto id = "line-" + std::to_string(i);
    EXPECT_EQ(get(a.port(), "/health", {{"X-Request-ID", id}}).status(), 200);
    EXPECT_EQ(value(line_with(a.process(), "request_id", id), "status"), "200");
  });
  expect_in_time(timings, 200ms, "a line is out");
}

TEST_P(LogOf, EachAnsweredRequestHasExactlyOneLineAlsoUnderLoad) {
  auto a = start_a({format});
  auto b = start_b(a.url(), {format});
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&b, client] {
      Connection connection(b.port());
      for (int i = 0; i < 50; ++i) {
        connection.send(request_text(
            kCall, "GET",
            "X-Request-ID: " + std::to_string(client) + "." + std::to_string(i) + "\r\n"));
        const auto response = connection.read_response(kPatience);
        EXPECT_TRUE(response && response->status == 200) << connection.error();
      }
    });
  }
  for (auto& client : clients) client.join();
  for (auto* service : {&b, &a}) {
    ASSERT_EQ(service->stop(), 0);
    std::map<std::string, int> seen;
    for (const auto& line : request_lines(service->process())) ++seen[value(line, "request_id")];
    EXPECT_EQ(seen.size(), 400U);
    for (const auto& [id, count] : seen) EXPECT_EQ(count, 1) << id;
  }
}

TEST_P(LogOf, StartAndStopAreLines) {
  auto a = start_a({format, "--delay=5ms"});
  ASSERT_EQ(a.stop(), 0);
  const auto lines = log_lines(a.process());
  ASSERT_EQ(lines.size(), 3U);
  for (const auto& line : lines) expect_sound(line, "service-a");
  EXPECT_EQ(value(lines[0], "msg"), "listening");
  EXPECT_TRUE(matches(value(lines[0], "version"), R"(\d+\.\d+\.\d+)"));
  EXPECT_EQ(value(lines[0], "host"), "127.0.0.1");
  EXPECT_EQ(value(lines[0], "port"), std::to_string(a.port()));
  EXPECT_EQ(value(lines[0], "delay"), "5ms");
  EXPECT_EQ(value(lines[1], "msg"), "stopping");
  EXPECT_EQ(value(lines[2], "msg"), "stopped");
}

INSTANTIATE_TEST_SUITE_P(Format, LogOf, testing::Values("logfmt", "json"),
                         [](const auto& test) { return test.param; });

// A service whose stdout is a terminal, made by script(1).
ProcessOptions environment(std::vector<std::string> variables) {
  ProcessOptions options;
  options.cleared_environment.insert(options.cleared_environment.end(),
                                     {"NO_COLOR", "CLICOLOR_FORCE"});
  options.environment = std::move(variables);
  return options;
}

TEST(LogForm, IsTextInColourInATerminalUnlessToldOtherwise) {
  struct Row {
    bool terminal;
    std::vector<std::string> variables, flags;
    bool text, coloured;
  };
  const std::string text_flag = "--log-format=text";
  for (const auto& [terminal, variables, flags, text, coloured] :
       std::vector<Row>{{true, {}, {}, true, true},
                        {true, {"NO_COLOR="}, {}, true, true},
                        {true, {"NO_COLOR=1"}, {}, true, false},
                        {true, {"NO_COLOR=1", "CLICOLOR_FORCE=1"}, {}, true, false},
                        {true, {}, {"--log-format=logfmt"}, false, false},
                        {true, {"LOG_FORMAT=logfmt"}, {}, false, false},
                        {false, {}, {}, false, false},
                        {false, {"CLICOLOR_FORCE=1"}, {}, false, false},
                        {false, {}, {text_flag}, true, false},
                        {false, {"CLICOLOR_FORCE=1"}, {text_flag}, true, true}}) {
    SCOPED_TRACE(testing::Message()
                 << "terminal: " << terminal << ", " << testing::PrintToString(variables) << ", "
                 << testing::PrintToString(flags));
    std::vector<std::string> argv{kServiceA, "--port=0"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    if (terminal) {
      std::string command = "exec";
      for (const auto& word : argv) command += " " + word;
      argv = {"script", "-qec", command, "/dev/null"};
    }
    Process process(argv, environment(variables));
    ASSERT_TRUE(process.wait_for_output("\n", kPatience)) << process.err();
    const auto out = process.out();
    EXPECT_EQ(out.find("\x1b[32minfo \x1b[m service-a listening version=") != std::string::npos,
              text && coloured)
        << out;
    EXPECT_EQ(out.find(" info  service-a listening version=") != std::string::npos,
              text && !coloured)
        << out;
    EXPECT_EQ(out.starts_with("time="), !text) << out;
  }
}

TEST(LogForm, OfPeopleCannotBeForged) {
  Process process({kServiceA, "--port=0", "--log-format=text"}, environment({}));
  ASSERT_TRUE(process.wait_for_output("\n", kPatience));
  const auto port = listening_port(process.out());
  ASSERT_TRUE(port) << process.out();
  Connection connection(*port);
  for (const auto& path : kHostilePaths) {
    connection.send(request_text(path));
    ASSERT_TRUE(connection.read_response()) << path << ": " << connection.error();
  }
  get(*port, "/a\xC2\x9B\xFFz");  // a C1 control character that opens an escape sequence
  process.signal(SIGTERM);
  ASSERT_EQ(process.wait(kPatience), 0);
  const auto lines = process.lines();
  EXPECT_EQ(lines.size(), kHostilePaths.size() + 4);
  for (const auto& line : lines) {
    EXPECT_TRUE(matches(line, R"(\d\d:\d\d:\d\d\.\d{3} info  service-a [ -~]+)")) << line;
  }
}

TEST(LogForm, OfAFailureForPeopleHasReasonAndSentence) {
  const ClosedPort nobody;
  Process b({kServiceB, "--port=0", "--log-format=text", "--service-a-url=" + nobody.url()},
            environment({}));
  ASSERT_TRUE(b.wait_for_output("\n", kPatience));
  const auto port = listening_port(b.out());
  ASSERT_TRUE(port) << b.out();
  get(*port, kCall, {{"X-Request-ID", "my-test-1"}});
  ASSERT_TRUE(b.wait_for_output("my-test-1\n", kPatience)) << b.out();
  const auto pattern = R"([0-9:.]+ error service-b GET /call-echo 503 [0-9.]+ ms )"
                       R"(connection_refused: nobody listens for service-a at [0-9.:]+ my-test-1)";
  EXPECT_TRUE(matches(b.lines().back(), pattern)) << b.lines().back();
}

// A service that says nothing on our pipe, on a port that we choose.
struct Silent {
  std::unique_ptr<Process> process;
  std::uint16_t port = 0;
};

// `redirection`: what the shell does with its stdout; "$1" is `path`.
Silent start_redirected(const std::string& redirection, const std::string& path = "") {
  for (int tries = 0; tries < 10; ++tries) {
    const auto port = lasting_port();
    auto process = std::make_unique<Process>(std::vector<std::string>{
        "bash", "-c", redirection, kServiceA, path, "--port=" + std::to_string(port)});
    if (eventually([&] { return !process->running() || get(port, "/health").status() == 200; },
                   kPatience) &&
        process->running()) {
      return {std::move(process), port};
    }
  }
  throw std::runtime_error("no port was free");
}

double dropped(std::uint16_t port) {
  return sample(metrics_of(port), "log_lines_dropped_total").value_or(-1);
}

TEST(LostLines, AreCountedWhereStdoutTakesNone) {
  for (const std::string redirection :
       {"exec \"$0\" \"$2\" >/dev/full", "exec \"$0\" \"$2\" > >(true)"}) {
    SCOPED_TRACE(redirection);
    const auto a = start_redirected(redirection);
    EXPECT_TRUE(eventually([&] { return dropped(a.port) >= 3; }));
    EXPECT_EQ(get(a.port, "/health").status(), 200);
  }
  EXPECT_EQ(dropped(start_a().port()), 0);
}

// Otherwise the next descriptor made, such as a socket, would be stdout, and get the log.
TEST(ClosedDescriptors, AreOpenedOnDevNull) {
  for (const auto& [redirections, closed] : std::map<std::string, std::vector<int>>{
           {"<&-", {0}}, {">&-", {1}}, {"2>&-", {2}}, {"<&- >&- 2>&-", {0, 1, 2}}}) {
    SCOPED_TRACE(redirections);
    const auto a = start_redirected("exec \"$0\" \"$2\" " + redirections);
    for (const int fd : closed) {
      const auto file = "/proc/" + std::to_string(a.process->pid()) + "/fd/" + std::to_string(fd);
      EXPECT_EQ(std::filesystem::read_symlink(file), "/dev/null");
    }
    a.process->signal(SIGTERM);
    EXPECT_EQ(a.process->wait(kPatience), 0);
  }
}

TEST(LostLines, AreToldWhenADiskThatWasFullTakesLinesAgainAndATornOneIsEnded) {
  const auto path = std::filesystem::temp_directory_path() / ("log-" + std::to_string(::getpid()));
  // A limit of the file's size is as a full disk: what fits is written, the rest is an error.
  const auto a = start_redirected("ulimit -S -f 2; exec \"$0\" \"$2\" >\"$1\"", path);
  int requests = 1;
  const auto lost = [&] {
    ++requests;
    return dropped(a.port);
  };
  ASSERT_TRUE(eventually([&] { return lost() > 10; }));
  EXPECT_EQ(std::filesystem::file_size(path), 2048U);  // to the last byte: a line is torn there

  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(a.process->pid(), RLIMIT_FSIZE, &unlimited, nullptr), 0);
  std::vector<LogLine> told;
  int whole = 0;
  const auto read = [&] {
    told.clear();
    whole = 0;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const auto parsed = parse_logfmt(line);
      if (!parsed || !parsed->contains("service")) continue;
      if (value(*parsed, "level") == "warn") told.push_back(*parsed);
      // A torn line ends before its last field, or in it.
      const bool complete = parsed->contains("msg") || value(*parsed, "trace_id").size() == 32;
      whole += value(*parsed, "level") == "info" && complete ? 1 : 0;
    }
    return !told.empty();
  };
  double total = 0;
  ASSERT_TRUE(eventually([&] {
    total = lost();
    return read();
  }));
  a.process->signal(SIGTERM);
  ASSERT_EQ(a.process->wait(kPatience), 0);
  read();
  ASSERT_EQ(told.size(), 1U);
  EXPECT_TRUE(value(told[0], "msg").starts_with("log lines were lost")) << value(told[0], "msg");
  EXPECT_EQ(std::stod(value(told[0], "total")), total);
  EXPECT_EQ(whole + total, requests + 3);  // and listening, stopping, stopped
  std::filesystem::remove(path);
}

TEST(LostLines, AreToldWhenAReaderThatHungReadsAgain) {
  Process shell(
      {"bash", "-c", "exec \"$0\" --port=0 > >(echo reader $BASHPID >&2; exec cat)", kServiceA});
  ASSERT_TRUE(shell.wait_for_output("listening", kPatience));
  const auto port = listening_port(shell.out());
  ASSERT_TRUE(port);
  ASSERT_TRUE(shell.wait_for_error("\n", kPatience));
  const auto reader = std::stoi(shell.err().substr(7));
  ASSERT_EQ(::kill(reader, SIGSTOP), 0);
  // 9 MB: more than the log keeps. A byte that is not UTF-8 is six in the log.
  std::string all;
  for (int i = 0; i < 100; ++i) all += request_text("/" + std::string(255, '\xFF'));
  Connection client(*port);
  for (int round = 0; round < 60; ++round) {
    ASSERT_TRUE(client.send(all));
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(client.read_response()) << client.error();
  }
  const auto total = dropped(*port);
  EXPECT_GT(total, 0);
  ASSERT_EQ(::kill(reader, SIGCONT), 0);
  const auto line = line_with(shell, "msg", "log lines were lost, stdout did not take them");
  EXPECT_GE(std::stod(value(line, "total")), total);
  EXPECT_LE(std::stod(value(line, "total")), total + 1);  // and the line of /metrics
}

// The parser that these tests rest on is itself strict.
TEST(LogfmtParser, RefusesWhatIsNotLogfmt) {
  for (const std::string& line : std::vector<std::string>{
           "", " ", "a", "=b", "a=", "a=b ", " a=b", "a=b  c=d", "a=b a=c", "a=b\"", "a=\"b",
           "a=b=c", "a=\"b\"c=d", "A=b", "a=\x01", "a=\xC3\xA9", "a=\\", "a=\"\\q\""}) {
    EXPECT_FALSE(parse_logfmt(line)) << line;
  }
  EXPECT_EQ(parse_logfmt(R"(a=b c="d e\n" f="")"),
            (LogLine{{"a", "b"}, {"c", "d e\n"}, {"f", ""}}));
}

}  // namespace
}  // namespace tests
