// What each service answers, to the byte.

#include <algorithm>
#include <array>
#include <random>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;

const std::string kNotFound = "{\"error\":\"no such path\"}\n";
const std::string kNotUtf8 = "{\"error\":\"msg is not valid UTF-8\"}\n";

// What of an answer does not depend on when it was made.
Headers lasting_headers(Headers headers) {
  std::erase_if(headers, [](const auto& header) {
    return header.first == "date" || header.first == "x-request-id" ||
           header.first == "server-timing";
  });
  std::sort(headers.begin(), headers.end());
  return headers;
}

// Strings that have gone wrong somewhere before. All of them valid UTF-8.
std::vector<std::string> tricky_messages() {
  return split(
      "| |hello|a b  "
      "c|a+b|&|#|%|%41|%2541|%zz|100%|=|a=b&msg=c;d|?|/|\\|\"|\"}\n{\"echo\":\"x\"}|'|"
      "\0|a\0b|\r\n|\r\nX-Injected: 1\r\n\r\n|\t\x01\x1f\x7f|null|{\"echo\":1}|[1,2]|"
      "<script>alert(1)</script>|../../etc/passwd|${HOME} `id` $(id)|"
      // UTF-8 at the edges of each length, a byte order mark, line separators, joined emoji
      "\xC3\xA9|\xE2\x82\xAC|\xF0\x9F\x98\x80|\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB|"
      "\xEF\xBB\xBF|\xE2\x80\xA8\xE2\x80\xA9|\xEF\xBF\xBD|\xEF\xBF\xBF|\xED\x9F\xBF\xEE\x80\x80|"
      "\xF4\x8F\xBF\xBF|\xC2\x80\xDF\xBF\xE0\xA0\x80\xF0\x90\x80\x80"s,
      '|');
}

// Random valid UTF-8 of up to `most` code points, of all lengths of encoding.
std::string random_utf8(std::mt19937& random, int most) {
  const auto below = [&random](unsigned limit) { return static_cast<unsigned>(random() % limit); };
  std::string text;
  for (auto count = below(static_cast<unsigned>(most) + 1); count > 0; --count) {
    auto c = below(std::array{0x80U, 0x800U, 0x10000U, 0x110000U}.at(below(4)));
    if (c >= 0xD800 && c < 0xE000) c -= 0x800;  // no surrogates
    const auto add = [&text](unsigned byte) { text += static_cast<char>(byte); };
    if (c < 0x80) {
      add(c);
      continue;
    }
    const auto more = c < 0x800 ? 1U : c < 0x10000 ? 2U : 3U;  // bytes behind the first
    add((0xFF00U >> (more + 1) & 0xFF) | c >> 6 * more);
    for (auto left = more; left > 0; --left) add(0x80 | (c >> 6 * (left - 1) & 0x3F));
  }
  return text;
}

// Percent-encoded queries whose msg is not UTF-8.
std::vector<std::string> invalid_messages() {
  return split(
      "%FF %FE %80 %BF a%80b hello%FF %C3%A9%C3 \xFF \xC3 "
      "%C0%80 %C1%BF %E0%80%80 %E0%9F%BF %F0%80%80%80 %F0%8F%BF%BF "  // overlong
      "%ED%A0%80 %ED%BF%BF %ED%A0%BD%ED%B8%80 "                       // surrogates
      "%C3 %E2%82 %F0%9F%98 %C3%28 %E2%28%A1 %E2%82%28 "              // cut, or broken off
      "%F0%28%8C%BC %F0%90%28%BC %F0%90%8C%28 "                       //
      "%F4%90%80%80 %F5%80%80%80 %F8%88%80%80%80",                    // above U+10FFFF
      ' ');
}

TEST(Services, AnswerEachEndpointExactly) {
  for_both({}, [](Tested& tested) {
    const std::string path = tested.is_a ? "/echo" : "/call-echo";
    Connection connection(tested.port());  // it stays open: each request is well-formed
    const std::vector<std::pair<std::string, std::string>> echoes{
        {"", ""},
        {"?", ""},
        {"?msg", ""},
        {"?msg=", ""},
        {"?MSG=hello", ""},
        {"?message=hello", ""},
        {"?msg=first&msg=second", "first"},
        {"?msg&msg=second", ""},
        {"?a=b&&msg=c&d=e&", "c"},
        {"?msg=a=b", "a=b"},
        {"?msg=a+b%20c%2Bd%2be", "a b c+d+e"},
        {"?msg=%2541%26%23%25", "%41&#%"},
        {"?msg=%u0041%zz%", "%u0041%zz%"},
        {"?m%73g=x", "x"},
        {"?msg=%22%5C%C3%A9\xC3\xA9%F0%9F%98%80", "\"\\\xC3\xA9\xC3\xA9\xF0\x9F\x98\x80"},
        {"?msg=%00", std::string(1, '\0')},
        {"?msg=fine&msg=%FF", "fine"},
        {"?other=%FF&msg=fine", "fine"},
    };
    for (const auto& [query, msg] : echoes) {
      SCOPED_TRACE(query);
      expect_json(ask(connection, request_text(path + query)), 200, tested.echoed(msg));
    }
    for (const std::string target :
         {"/health", "/health?x=1", "/ready", "/%68ealth", "http://other:1/health"}) {
      SCOPED_TRACE(target);
      expect_json(ask(connection, request_text(target)), 200, kOk);
    }
    for (const std::string target :
         {"/nope", "/health/", "//health", "/Health", "/..", "/health%00", "/%FF", "/ech%6F%2F",
          "/%", "/?msg", tested.is_a ? "/call-echo?msg=hello" : "/echo?msg=hello"}) {
      if (!tested.is_a && target == "/?msg") continue;  // the page
      SCOPED_TRACE(target);
      expect_json(ask(connection, request_text(target)), 404, kNotFound);
    }
  });
}

TEST(Services, EchoEveryValidMessageExactly) {
  for_both({}, [](Tested& tested) {
    auto messages = tricky_messages();
    std::mt19937 random(1);
    for (int i = 0; i < 300; ++i) messages.push_back(random_utf8(random, 40));
    Connection connection(tested.port());
    for (const auto& msg : messages) {
      expect_json(ask(connection, request_text(tested.echo(msg))), 200, tested.echoed(msg));
    }
  });
}

TEST(Services, RefuseEveryMessageThatIsNotUtf8) {
  FaultyUpstream upstream(right_mode());
  const auto a = start_a();
  const auto b = start_b(upstream.url());
  for (const auto& [port, path] :
       {std::pair{a.port(), "/echo?msg="}, {b.port(), "/call-echo?msg="}}) {
    Connection connection(port);
    for (const auto& msg : invalid_messages()) {
      SCOPED_TRACE(path + msg);
      expect_json(ask(connection, request_text(path + msg)), 400, kNotUtf8);
    }
  }
  EXPECT_EQ(upstream.connections(), 0U);  // nobody is called for it
}

// A '+' is one byte on the way to B, and three ("%20") on the way to A.
TEST(Services, TakeTheLongestMessageThatFitsARequestLineOfServiceA) {
  const std::size_t room = 8192 - std::string("GET /echo?msg= HTTP/1.1").size();
  for_both({}, [room](Tested& tested) {
    const auto long_line = tested.is_a ? room : room - 5;  // its own path is longer: "/call-echo"
    for (const char c : {'x', '\\'}) {
      const std::string msg(tested.is_a || c == 'x' ? long_line : room / 3, c);
      const auto path = tested.echo("") + msg;
      expect_json(get(tested.port(), path), 200, tested.echoed(msg));
    }
    EXPECT_EQ(get(tested.port(), tested.echo("") + std::string(long_line + 1, 'x')).status, 414);
  });
  FaultyUpstream upstream(right_mode());
  const auto b = start_b(upstream.url());
  const auto a = start_a();
  const auto b_of_a = start_b(a.url());
  for (const std::size_t letters : {0U, 1U, 2U, 300U}) {
    const auto spaces = (room - letters) / 3;
    const std::string more(letters + (room - letters) % 3, 'x');
    const auto query = "/call-echo?msg=" + more + std::string(spaces, '+');
    for (const auto port : {b.port(), b_of_a.port()}) {
      expect_json(get(port, query), 200, call_body(more + std::string(spaces, ' ')));
    }
    const auto calls = upstream.requests().size();
    expect_json(get(b.port(), query + "x"), 414,
                "{\"error\":\"msg is too long to be sent on to service-a\"}\n");
    EXPECT_EQ(upstream.requests().size(), calls);
  }
}

TEST(Services, AnswerHeadAsGetWithoutTheBody) {
  for_both({}, [](Tested& tested) {
    Connection connection(tested.port());
    for (const std::string& target :
         {std::string("/health"), std::string("/ready"), std::string("/metrics"),
          tested.echo("hello"), tested.echo("") + "%FF", std::string("/nope"), std::string("/")}) {
      SCOPED_TRACE(target);
      const auto full = ask(connection, request_text(target));
      const auto head = ask(connection, request_text(target, "HEAD"), true);
      EXPECT_EQ(head.status, full.status);
      EXPECT_EQ(ask(connection, request_text("/health")).body, kOk);  // no byte of a body is left
      auto expected = full.headers;
      auto actual = head.headers;
      if (target == "/metrics") {  // the GET itself makes it longer
        const auto is_length = [](const auto& field) { return field.first == "content-length"; };
        EXPECT_EQ(std::erase_if(expected, is_length), 1U);
        EXPECT_EQ(std::erase_if(actual, is_length), 1U);
      }
      EXPECT_EQ(lasting_headers(actual), lasting_headers(expected));
    }
  });
}

TEST(Services, AllowNoOtherMethodAndReadNoBody) {
  for_both({}, [](Tested& tested) {
    for (const std::string method :
         {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"}) {
      for (const auto& target : {std::string("/health"), std::string("/ready"),
                                 std::string("/metrics"), tested.echo("hello")}) {
        SCOPED_TRACE(method + " " + target);
        Connection connection(tested.port());
        const auto body = request_text("/health");
        const auto length = "Content-Length: " + std::to_string(body.size()) + "\r\n";
        const auto response = ask(connection, request_text(target, method, length) + body);
        expect_json(response, 405, "{\"error\":\"only GET and HEAD are allowed here\"}\n");
        EXPECT_EQ(response.header("allow"), "GET, HEAD");
        expect_last(connection, response);
      }
    }
  });
}

TEST(Services, TakeNoNoticeOfFieldsThatHaveNoEffect) {
  std::string ranges = "bytes=0-1";
  for (int i = 0; i < 1'000; ++i) ranges += ",0-1";
  for_both({}, [&](Tested& tested) {
    Connection connection(tested.port());
    const auto plain = ask(connection, request_text(tested.echo("x")));
    for (const std::string& fields : std::vector<std::string>{
             "Range: bytes=0-1\r\n", "Range: " + ranges + "\r\n",
             "Range: rubbish\r\nIf-Range: x\r\n", "Accept-Encoding: gzip, br, deflate, *;q=0\r\n",
             "Expect: 100-continue\r\n", "Expect: 200-ok\r\n", "Accept: text/html\r\n",
             "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
             "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
             "If-None-Match: *\r\nIf-Modified-Since: Mon, 23 Nov 2026 06:47:01 GMT\r\n",
             "X-HTTP-Method-Override: DELETE\r\nTE: trailers\r\n",
             "Content-Encoding: gzip\r\nContent-Type: multipart/form-data\r\n",
             "REMOTE_ADDR: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n"}) {
      SCOPED_TRACE(fields.substr(0, 100));
      const auto response = ask(connection, request_text(tested.echo("x"), "GET", fields));
      expect_json(response, 200, tested.echoed("x"));
      EXPECT_EQ(lasting_headers(response.headers), lasting_headers(plain.headers));
    }
  });
}

TEST(ServiceA, DelaysOnlyEchoAndKeepsTheOrderOfPipelinedAnswers) {
  auto a = start_a({"--delay=200ms"});
  Connection connection(a.port());
  const auto start = Clock::now();
  connection.send(request_text("/health") + request_text("/echo?msg=1") + request_text("/health") +
                  request_text("/echo?msg=2"));
  expect_json(ask(connection, ""), 200, kOk);
  EXPECT_LT(Clock::now() - start, 200ms);
  expect_json(ask(connection, ""), 200, echo_body("1"));
  expect_json(ask(connection, ""), 200, kOk);
  const auto second = ask(connection, "");
  expect_json(second, 200, echo_body("2"));
  EXPECT_GE(Clock::now() - start, 400ms);
  // The log says what the client felt.
  const auto latency = value(line_of(a.process(), second), "latency_ms");
  EXPECT_GE(std::stod(latency), 200) << latency;
}

TEST(ServiceA, FailsTheShareOfEchoesThatErrorRateSays) {
  const auto none = start_a({"--error-rate=0"});
  auto all = start_a({"--error-rate=1"});
  const auto half = start_a({"--error-rate=0.5"});
  int failed = 0;
  for (int i = 0; i < 100; ++i) {
    expect_json(get(none.port(), "/echo?msg=x"), 200, echo_body("x"));
    expect_json(get(all.port(), "/echo?msg=x"), 500,
                "{\"error\":\"chosen to fail by --error-rate\"}\n");
    expect_json(get(all.port(), "/health"), 200, kOk);
    failed += get(half.port(), "/echo").status == 500 ? 1 : 0;
  }
  EXPECT_GT(failed, 10);
  EXPECT_LT(failed, 90);
  const auto b = start_b(all.url());
  EXPECT_EQ(get(b.port(), "/call-echo").field("reason"), "bad_status");
}

TEST(ServiceB, SaysHowLongTheCallTook) {
  const auto a = start_a();
  auto b = start_b(a.url());
  Connection connection(b.port());
  const auto response = ask(connection, request_text("/call-echo?msg=hello"));
  const auto line = line_of(b.process(), response);
  EXPECT_EQ(response.header("server-timing"), "service-a;dur=" + value(line, "upstream_ms"));
  EXPECT_GT(std::stod(value(line, "upstream_ms")), 0);
  EXPECT_LE(std::stod(value(line, "upstream_ms")), std::stod(value(line, "latency_ms")));
}

TEST(ServiceB, SendsARequestOfItsOwnAndNothingOfTheClients) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  const auto result = get(b.port(), "/call-echo?x=1&msg=a+b%26&y=2",
                          {{"Cookie", "secret=1"},
                           {"Authorization", "Basic eDp5"},
                           {"X-Forwarded-For", "1.2.3.4"},
                           {"User-Agent", "client/1"},
                           {"Accept", "text/html"},
                           {"Accept-Encoding", "br"},
                           {"X-Request-ID", "id-1"}});
  EXPECT_EQ(result.status, 200);
  ASSERT_EQ(upstream.requests().size(), 1U);
  const auto head = upstream.requests().front();
  auto lines = split(head, '\n');
  EXPECT_EQ(lines.front(), "GET /echo?msg=a%20b%26 HTTP/1.1\r");
  std::ranges::sort(lines);
  std::string sorted;
  for (const auto& line : lines) sorted += line;
  EXPECT_TRUE(matches(sorted,
                      "\r(Accept-Encoding: identity\r)?Accept: application/json\r"
                      "GET .*\rHost: 127\\.0\\.0\\.1:\\d+\rUser-Agent: service-b\r"
                      "X-Request-ID: id-1\rtraceparent: [-0-9a-f]{55}\r"))
      << head;
}

TEST(ServiceB, FindsAByName) {
  const auto a = start_a();
  const auto b = start_b("http://localhost:" + std::to_string(a.port()));
  expect_json(get(b.port(), "/call-echo?msg=hello"), 200, call_body("hello"));
}

// What people use. No proxy of the machine between it and 127.0.0.1.
TEST(Curl, ReadsEveryAnswer) {
  if (run("sh", {"-c", "command -v curl"}).code != 0) GTEST_SKIP() << "curl is not installed";
  const auto a = start_a();
  const ClosedPort nobody;
  const auto b = start_b(nobody.url());
  for (const auto& [service, target] : {std::pair{&a, std::string("/echo?msg=%F0%9F%98%80%22+%25")},
                                        {&a, "/echo?msg=%FF"},
                                        {&a, "/nope?" + std::string(8'500, 'x')},
                                        {&b, kCall}}) {
    SCOPED_TRACE(target.substr(0, 60));
    const auto ours = get(service->port(), target);
    const auto result =
        run("curl", {"--noproxy", "*", "-sSw", "%{stderr}%{http_code}", service->url() + target});
    EXPECT_EQ(result.out, ours.body);
    EXPECT_EQ(result.err, std::to_string(ours.status));
  }
}

}  // namespace
}  // namespace tests
