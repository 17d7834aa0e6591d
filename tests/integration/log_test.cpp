#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

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

// A service that does not tell its port, on one that we choose: `argv("--port=...")` starts it.
struct Silent {
  std::unique_ptr<Process> process;
  std::uint16_t port = 0;
};

Silent start_silent(const std::function<std::vector<std::string>(const std::string&)>& argv) {
  const auto port = lasting_port();
  auto process = std::make_unique<Process>(argv("--port=" + std::to_string(port)));
  EXPECT_TRUE(eventually([&] { return get(port, "/health").status == 200; })) << process->err();
  return {std::move(process), port};
}

struct LogOf : testing::TestWithParam<std::string> {
  const std::string format = "--log-format=" + GetParam();
};

TEST_P(LogOf, ARequestIsOneLineWithTheFieldsInThisOrder) {
  auto a = start_a({format});
  auto b = start_b(a.url(), {format});
  const auto result = get(b.port(), kCall + "&secret=1");
  EXPECT_EQ(result.status, 200);
  const auto line_of_b = line_of(b.process(), result);
  const auto line_of_a = line_of(a.process(), result);
  expect_sound(line_of_a, "service-a");
  expect_sound(line_of_b, "service-b");
  EXPECT_EQ(value(line_of_a, "endpoint"), "/echo");
  for (const auto* field : {"level", "method", "status", "trace_id", "request_id"}) {
    EXPECT_EQ(value(line_of_a, field), value(line_of_b, field)) << field;
  }
  EXPECT_FALSE(line_of_a.contains("upstream_ms"));
  EXPECT_EQ(b.process().out().find("secret"), std::string::npos);  // no query in the log

  EXPECT_EQ(request_lines(b.process()).size(), 1U);
  const auto raw = b.process().lines().back();
  EXPECT_TRUE(matches(
      raw,
      GetParam() == "logfmt"
          ? R"(time=\S+ level=info service=service-b method=GET endpoint=/call-echo status=200 )"
            R"(latency_ms=[\d.]+ upstream_ms=[\d.]+ request_id=\S+ trace_id=\S+)"
          : R"(\{"time":"[^"]+","level":"info","service":"service-b","method":"GET",)"
            R"("endpoint":"/call-echo","status":200,"latency_ms":[\d.]+,"upstream_ms":[\d.]+,)"
            R"("request_id":"[^"]+","trace_id":"[^"]+"\})"))
      << raw;
}

// Paths that try to end the line, to add fields, or to be too long.
const std::vector<std::string> kHostilePaths = [] {
  auto paths = split(
      "/a%0Atime=2026-01-01T00:00:00.000000Z%20level=error /a%0D%0Alevel=error /level=error "
      "/\"level=error\" /\"%20level=error%20x=\" /a\\ /a\\\" /a\\n /{\"level\":\"error\"} "
      "/\",\"level\":\"error /' /`id`$(id) /%00 /%1b[31m /%FF%FE /caf\xC3\xA9 /\xF0\x9F\x98\x80 /= "
      "/==\"\" "
      "/a;b,c|d",
      ' ');
  for (const std::size_t size : {254U, 255U, 256U, 300U, 7'000U}) {
    paths.push_back("/" + std::string(size, 'x'));
  }
  for (const char c : {'"', '\\'}) paths.push_back("/" + std::string(300, c));
  return paths;
}();

TEST_P(LogOf, NoPathForgesALineOrAField) {
  auto a = start_a({format});
  Connection connection(a.port());
  for (const auto& path : kHostilePaths) {
    const auto bytes = request_text(path + "?level=error&x=\"%0Alevel=error");
    ASSERT_EQ(ask(connection, bytes).status, 404) << path;
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
    return value(line_of(a.process(), get(a.port(), path)), "endpoint");
  };
  EXPECT_EQ(endpoint("/a\xFFz"), "/a" + replaced + "z");
  EXPECT_EQ(endpoint("/" + std::string(254, 'x') + smile), "/" + std::string(254, 'x') + replaced);
}

TEST_P(LogOf, NoHeaderAndNoMethodForgesALineOrAField) {
  auto a = start_a({format});
  for (const std::string method : {"level", "{}", "\"GET\"", "GET'"}) {
    ASSERT_NE(get(a.port(), "/health", {}, 5s, method).status, 0) << method;
  }
  const std::vector<Headers> hostile{
      {{"X-Request-ID", "a level=error"}},
      {{"X-Request-ID", "a\" level=error x=\""}},
      {{"X-Request-ID", "\xC3\xA9"}},
      {{"traceparent", "00-\"level=error\"-x-01"}},
      {{"User-Agent", "level=error"}, {"Referer", "level=error"}, {"Cookie", "level=error"}}};
  for (const auto& headers : hostile) {
    const auto result = get(a.port(), "/health", headers);
    EXPECT_EQ(result.status, 200) << headers.front().second;
    const auto line = line_of(a.process(), result);
    expect_sound(line, "service-a");
    EXPECT_EQ(value(line, "level"), "info");
    EXPECT_EQ(line.size(), 9U);
  }
  EXPECT_EQ(a.process().out().find("level=error"), std::string::npos);
  for (const auto& line : request_lines(a.process())) expect_sound(line, "service-a");
  EXPECT_EQ(request_lines(a.process()).size(), 4 + hostile.size());
}

// Refused before a handler had a say; each must have its line nevertheless.
TEST_P(LogOf, RefusedRequestsHaveTheirLine) {
  auto a = start_a({format, "--max-connections=3"});
  const auto refused = [&](const std::string& bytes, int status) {
    Connection connection(a.port());
    const auto response = ask(connection, bytes);
    EXPECT_EQ(response.status, status);
    const auto line = line_of(a.process(), response);
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

  // One after the other: those that were refused may not have gone yet.
  std::vector<Connection> connections;
  for (int i = 0; i < 3; ++i) ask(connections.emplace_back(a.port()), kHealth);
  refused(kHealth, 503);
}

TEST(LogLevel, WarnLeavesOnlyTrouble) {
  const ClosedPort nobody;
  // The start line, which would name a port that is free, is one of those left out.
  const auto b = start_silent([&](const std::string& port) {
    return std::vector<std::string>{kServiceB, port, "--service-a-url=" + nobody.url(),
                                    "--log-level=warn"};
  });
  for (const std::string target : {"/health", "/nope", "/call-echo?msg=%FF"}) get(b.port, target);
  EXPECT_EQ(get(b.port, kCall).status, 503);
  EXPECT_EQ(get(b.port, "/health", {{"Bad Name", "x"}}).status, 400);
  b.process->signal(SIGTERM);
  ASSERT_EQ(b.process->wait(kPatience), 0);
  const auto lines = log_lines(*b.process);
  ASSERT_EQ(lines.size(), 2U) << b.process->out();
  EXPECT_EQ(value(lines[0], "level"), "error");
  EXPECT_EQ(value(lines[1], "level"), "warn");
  EXPECT_EQ(value(lines[1], "status"), "400");
}

TEST_P(LogOf, ALineIsOutWithin200Milliseconds) {
  auto a = start_a({format});
  const auto timings = time_at_once(20, [&](std::size_t i) {
    const auto id = "line-" + std::to_string(i);
    EXPECT_EQ(get(a.port(), "/health", {{"X-Request-ID", id}}).status, 200);
    EXPECT_EQ(value(line_with(a.process(), "request_id", id), "status"), "200");
  });
  expect_in_time(timings, 200ms, "a line is out");
}

INSTANTIATE_TEST_SUITE_P(Format, LogOf, testing::Values("logfmt", "json"),
                         [](const auto& test) { return test.param; });

// script(1) makes a terminal.
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
                        {true, {"TERM=dumb"}, {}, true, false},
                        {true, {"TERM=dumb", "CLICOLOR_FORCE=1"}, {}, true, true},
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
    Process process(argv, {.environment = variables});
    ASSERT_TRUE(eventually([&] { return !process.lines().empty(); })) << process.err();
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

// `redirection`: what the shell does with its stdout; "$1" is `path`.
Silent start_redirected(const std::string& redirection, const std::string& path = "") {
  return start_silent([&](const std::string& port) {
    return std::vector<std::string>{"bash", "-c", redirection, kServiceA, path, port};
  });
}

// A byte that is not UTF-8 is six in the log.
const std::string kLongInTheLog(255, '\xFF');

double dropped(std::uint16_t port) { return sample(port, "log_lines_dropped_total").value_or(-1); }

TEST(LostLines, AreCountedWhereStdoutTakesNone) {
  for (const std::string redirection :
       {"exec \"$0\" \"$2\" >/dev/full", "exec \"$0\" \"$2\" > >(true)"}) {
    SCOPED_TRACE(redirection);
    const auto a = start_redirected(redirection);
    EXPECT_TRUE(eventually([&] { return dropped(a.port) >= 3; }));
    EXPECT_EQ(get(a.port, "/health").status, 200);
    a.process->signal(SIGTERM);
    EXPECT_EQ(a.process->wait(kPatience), 0);
  }
  EXPECT_EQ(dropped(start_a().port()), 0);
}

// Several services may share a pipe, and what one write(2) gives it stays together: pipe(7).
TEST(LogLines, AreWrittenWhole) {
  std::array<int, 2> pair{};
  check(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair.data()), "socketpair");
  const UniqueFd ours(pair[0]);
  UniqueFd its(pair[1]);
  const auto port = lasting_port();
  Process process(
      {"bash", "-c", "exec \"$0\" \"$1\" >&3", kServiceA, "--port=" + std::to_string(port)},
      {.file_3 = its.get()});
  its.reset();
  const auto receive = [&ours] {  // what was written at once
    std::string written(65'536, '\0');
    const auto size = ::recv(ours.get(), written.data(), written.size(), 0);
    written.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return written;
  };
  receive();  // that it listens
  Connection client(port);
  std::string hundred;
  for (int i = 0; i < 100; ++i) hundred += request_text("/health");
  ASSERT_TRUE(client.send(hundred));
  for (std::ptrdiff_t lines = 0; lines < 100;) {
    const auto written = receive();
    ASSERT_TRUE(written.ends_with("\n")) << written;
    lines += std::count(written.begin(), written.end(), '\n');
  }
}

// Otherwise the next descriptor made, such as a socket, would be stdout, and get the log.
TEST(ClosedDescriptors, AreOpenedOnDevNull) {
  for (const auto& [redirections, closed] :
       std::map<std::string, std::vector<int>>{{"<&-", {0}}, {"<&- >&- 2>&-", {0, 1, 2}}}) {
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

TEST(LostLines, AreToldAtAStopWhereADiskThatWasFullTakesLinesAgainAndTornOnesAreEnded) {
  const auto path = std::filesystem::temp_directory_path() / ("log-" + std::to_string(::getpid()));
  std::ofstream(path) << "torn by the process before";
  // A limit of the file's size is as a full disk: what fits is written, the rest is an error.
  const auto a = start_redirected("ulimit -S -f 2; exec \"$0\" \"$2\" >>\"$1\"", path);
  int requests = 1;
  ASSERT_TRUE(eventually([&] {
    ++requests;
    return dropped(a.port) > 10;
  }));
  EXPECT_EQ(std::filesystem::file_size(path), 2048U);  // to the last byte: a line is torn there

  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(a.process->pid(), RLIMIT_FSIZE, &unlimited, nullptr), 0);
  a.process->signal(SIGTERM);
  ASSERT_EQ(a.process->wait(kPatience), 0);
  std::vector<LogLine> told;
  int whole = 0;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto parsed = parse_logfmt(line);
    if (!parsed || !parsed->contains("service")) continue;
    if (value(*parsed, "level") == "warn") told.push_back(*parsed);
    // A torn line ends before its last field, or in it.
    const bool complete = parsed->contains("msg") || value(*parsed, "trace_id").size() == 32;
    whole += value(*parsed, "level") == "info" && complete ? 1 : 0;
  }
  ASSERT_EQ(told.size(), 1U);
  EXPECT_TRUE(value(told[0], "msg").starts_with("log lines were lost")) << value(told[0], "msg");
  const auto total = std::stod(value(told[0], "total"));
  EXPECT_EQ(whole + total, requests + 3);  // and listening, stopping, stopped
  std::filesystem::remove(path);
}

TEST(LostLines, AreToldWhenAReaderThatHungReadsAgain) {
  Service a("bash", {"-c", "exec \"$0\" \"$@\" > >(echo $BASHPID >&2; exec cat)", kServiceA});
  const auto reader = std::stoi(a.process().err());
  ASSERT_EQ(::kill(reader, SIGSTOP), 0);
  Connection client(a.port());
  ask_often(client, "/" + kLongInTheLog, 6'000);  // 9 MB: more than the log keeps
  const auto total = dropped(a.port());
  EXPECT_GT(total, 0);
  ASSERT_EQ(::kill(reader, SIGCONT), 0);
  const auto line = line_with(a.process(), "msg", "log lines were lost, stdout did not take them");
  EXPECT_GE(std::stod(value(line, "total")), total);
  EXPECT_LE(std::stod(value(line, "total")), total + 1);  // and the line of /metrics
}

// It pauses for longer than the log waits at a time, in all for longer than it waits at the end.
TEST(LostLines, AreNoneAtAStopWhoseReaderIsOnlySlow) {
  const std::string script =
      R"(exec "$0" "$@" > >(while read -r line; do echo "$line"; ((++n % 100)) || sleep 0.3; done))";
  Service a("bash", {"-c", script, kServiceA});
  Connection client(a.port());
  ask_often(client, "/" + kLongInTheLog, 1'000);
  EXPECT_EQ(a.stop(), 0);
  const auto lines = [&] { return a.process().lines().size(); };
  EXPECT_TRUE(eventually([&] { return lines() == 1'000 + 3; })) << lines();
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
