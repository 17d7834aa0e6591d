#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

constexpr const char* kNotFound = "{\"error\":\"no such path\"}\n";
constexpr const char* kNotUtf8 = "{\"error\":\"msg is not valid UTF-8\"}\n";

TEST(ServiceA, AnswersEachEndpointExactly) {
  auto a = start_a();
  const std::vector<std::pair<std::string, std::string>> answers{
      {"/health", R"({"status":"ok"})"},
      {"/health?x=1", R"({"status":"ok"})"},
      {"/ready", R"({"status":"ok"})"},
      {"/echo", R"({"echo":""})"},
      {"/echo?", R"({"echo":""})"},
      {"/echo?msg", R"({"echo":""})"},
      {"/echo?msg=", R"({"echo":""})"},
      {"/echo?msg=hello", R"({"echo":"hello"})"},
      {"/echo?MSG=hello", R"({"echo":""})"},
      {"/echo?message=hello", R"({"echo":""})"},
      {"/echo?msg=first&msg=second", R"({"echo":"first"})"},
      {"/echo?msg=&msg=second", R"({"echo":""})"},
      {"/echo?msg&msg=second", R"({"echo":""})"},
      {"/echo?a=b&msg=c&d=e", R"({"echo":"c"})"},
      {"/echo?&&msg=c&&", R"({"echo":"c"})"},
      {"/echo?msg=a=b", R"({"echo":"a=b"})"},
      {"/echo?msg=a+b", R"({"echo":"a b"})"},
      {"/echo?msg=a%20b", R"({"echo":"a b"})"},
      {"/echo?msg=a%2Bb", R"({"echo":"a+b"})"},
      {"/echo?msg=a%2bb", R"({"echo":"a+b"})"},
      {"/echo?msg=%2541", R"({"echo":"%41"})"},
      {"/echo?msg=%26%23%25", R"({"echo":"&#%"})"},
      {"/echo?m%73g=x", R"({"echo":"x"})"},
      {"/echo?msg=%00", R"({"echo":"\u0000"})"},
      {"/echo?msg=%22%5C", R"({"echo":"\"\\"})"},
      {"/echo?msg=%C3%A9", "{\"echo\":\"\xC3\xA9\"}"},
      {"/echo?msg=\xC3\xA9", "{\"echo\":\"\xC3\xA9\"}"},
      {"/echo?msg=%F0%9F%98%80", "{\"echo\":\"\xF0\x9F\x98\x80\"}"},
      {"/%65cho?msg=x", R"({"echo":"x"})"},
  };
  for (const auto& [target, body] : answers) {
    SCOPED_TRACE(target);
    expect_json(get(a.port(), target), 200, body + "\n");
  }
}

TEST(ServiceA, EchoesEveryValidMessageExactly) {
  auto a = start_a();
  auto messages = tricky_messages();
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) messages.push_back(random_utf8(random, 40));
  Connection connection(a.port());
  for (const auto& msg : messages) {
    connection.send(request_text("/echo?msg=" + percent_encode(msg)));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    expect_json(*response, 200, "{\"echo\":" + quoted(msg) + "}\n");
    EXPECT_EQ(response->json()["echo"], msg);
  }
}

TEST(ServiceA, EchoesTheLongestMessageThatFitsTheRequestLine) {
  auto a = start_a();
  const auto longest = 8192 - std::string("GET /echo?msg= HTTP/1.1").size();
  for (const char c : {'x', '\\'}) {
    const std::string msg(longest, c);
    expect_json(get(a.port(), "/echo?msg=" + msg), 200, "{\"echo\":" + quoted(msg) + "}\n");
  }
  EXPECT_EQ(get(a.port(), "/echo?msg=" + std::string(longest + 1, 'x')).status(), 414);
}

TEST(ServiceA, AnswersBadRequestToAMessageThatIsNotUtf8) {
  auto a = start_a();
  Connection connection(a.port());  // it stays open: the request itself was well-formed
  for (const auto& msg : invalid_messages()) {
    SCOPED_TRACE(msg);
    connection.send(request_text("/echo?msg=" + msg));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    expect_json(*response, 400, kNotUtf8);
  }
  expect_json(get(a.port(), "/echo?msg=fine&msg=%FF"), 200, "{\"echo\":\"fine\"}\n");
  expect_json(get(a.port(), "/echo?other=%FF&msg=fine"), 200, "{\"echo\":\"fine\"}\n");
}

TEST(ServiceA, AnswersHeadAsGetWithoutTheBody) {
  auto a = start_a();
  Connection connection(a.port());
  for (const std::string target : {"/health", "/ready", "/metrics", "/echo", "/echo?msg=hello",
                                   "/echo?msg=%FF", "/nope", "/call-echo"}) {
    SCOPED_TRACE(target);
    connection.send(request_text(target) + request_text(target, "HEAD") + request_text("/health"));
    const auto full = connection.read_response();
    const auto head = connection.read_response(5s, true);
    const auto next = connection.read_response();
    ASSERT_TRUE(full && head && next) << connection.error();
    EXPECT_EQ(head->status, full->status);
    EXPECT_EQ(next->body, "{\"status\":\"ok\"}\n");
    auto expected = full->headers;
    auto actual = head->headers;
    if (target == "/metrics") {  // the GET itself makes it longer
      const auto is_length = [](const auto& field) { return field.first == "content-length"; };
      EXPECT_EQ(std::erase_if(expected, is_length), 1U);
      EXPECT_EQ(std::erase_if(actual, is_length), 1U);
    }
    EXPECT_EQ(lasting_headers(actual), lasting_headers(expected));
  }
}

TEST(ServiceA, AnswersNotFoundToUnknownPaths) {
  auto a = start_a();
  Connection connection(a.port());
  for (const std::string target :
       {"/", "/nope", "/health/", "//health", "/Health", "/echo/hello", "/call-echo?msg=hello",
        "/..", "/health%00", "/%FF", "/ech%6F%2F", "/%", "/?msg=hello"}) {
    SCOPED_TRACE(target);
    connection.send(request_text(target));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    expect_json(*response, 404, kNotFound);
  }
}

TEST(ServiceA, AnswersMethodNotAllowedWithoutReadingABody) {
  auto a = start_a();
  for (const std::string method :
       {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"}) {
    for (const std::string target : {"/health", "/ready", "/metrics", "/echo?msg=hello"}) {
      SCOPED_TRACE(method + " " + target);
      Connection connection(a.port());
      const auto smuggled = request_text("/health");
      connection.send(request_text(target, method,
                                   "Content-Length: " + std::to_string(smuggled.size()) + "\r\n") +
                      smuggled);
      const auto response = connection.read_response();
      ASSERT_TRUE(response) << connection.error();
      EXPECT_EQ(response->status, 405);
      EXPECT_EQ(response->header("allow"), "GET, HEAD");
      EXPECT_EQ(response->header("connection"), "close");
      EXPECT_EQ(response->header("content-type"), "application/json");
      EXPECT_TRUE(response->json()["error"].is_string());
      EXPECT_TRUE(connection.closed_by_peer());
      EXPECT_EQ(connection.unread(), "");
    }
  }
}

TEST(ServiceA, TakesNoNoticeOfRangeAcceptEncodingAndExpect) {
  auto a = start_a();
  const auto plain = get(a.port(), "/echo?msg=hello");
  ASSERT_TRUE(plain.response);
  const std::vector<Headers> variants{
      {{"Range", "bytes=0-1"}},
      {{"Range", "bytes=0-0,2-2,4-4"}, {"If-Range", "x"}},
      {{"Accept-Encoding", "gzip, br, deflate"}},
      {{"Expect", "100-continue"}},
      {{"Accept", "text/html"}},
      {{"If-None-Match", "*"}},
      {{"Upgrade", "h2c"}, {"Connection", "Upgrade, HTTP2-Settings"}, {"HTTP2-Settings", "AA"}}};
  for (const auto& headers : variants) {
    const auto result = get(a.port(), "/echo?msg=hello", headers);
    ASSERT_TRUE(result.response) << result.error;
    EXPECT_EQ(result.response->status, 200) << headers.front().first;
    EXPECT_EQ(result.response->body, plain.response->body);
    EXPECT_EQ(lasting_headers(result.response->headers), lasting_headers(plain.response->headers));
  }
}

TEST(ServiceA, HoldsNoThreadWhileItDelaysAnswers) {
  auto a = start_a({"--delay=1s"});
  std::vector<Connection> connections;
  for (int i = 0; i < 50; ++i) connections.emplace_back(a.port());
  const auto start = Clock::now();
  for (auto& each : connections) ASSERT_TRUE(each.send(request_text("/echo?msg=hello")));
  // More than there are threads, and still these are answered before the first of the others.
  for (const std::string target : {"/health", "/ready", "/metrics", "/nope"}) {
    ASSERT_TRUE(get(a.port(), target).response) << target;
  }
  EXPECT_FALSE(connections.front().read_response(0ms));
  for (auto& each : connections) {
    const auto response = each.read_response();
    ASSERT_TRUE(response) << each.error();
    expect_json(*response, 200, "{\"echo\":\"hello\"}\n");
  }
  const auto elapsed = Clock::now() - start;
  EXPECT_GE(elapsed, 1s);
  EXPECT_LT(elapsed, 4s);  // one after the other, on a few threads, it would be 10 s and more

  // The log says what the client felt.
  auto lines = request_lines(a.process());
  std::erase_if(lines, [](const LogLine& line) { return value(line, "endpoint") != "/echo"; });
  for (const auto& line : lines) EXPECT_GE(std::stod(value(line, "latency_ms")), 1000.0);
}

TEST(ServiceA, DelaysOnlyEchoAndKeepsTheOrderOfPipelinedAnswers) {
  auto a = start_a({"--delay=200ms"});
  Connection connection(a.port());
  connection.send(request_text("/health") + request_text("/echo?msg=1") + request_text("/health") +
                  request_text("/echo?msg=2"));
  for (const std::string body : {"{\"status\":\"ok\"}\n", "{\"echo\":\"1\"}\n",
                                 "{\"status\":\"ok\"}\n", "{\"echo\":\"2\"}\n"}) {
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    EXPECT_EQ(response->body, body);
  }
}

}  // namespace
}  // namespace tests
