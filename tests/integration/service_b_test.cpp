#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

struct ServiceBAndA : testing::Test {
  Service a = start_a();
  Service b = start_b(a.url());
};

std::string call_body(const std::string& msg) {
  return "{\"service_a\":{\"echo\":" + quoted(msg) + "},\"service_b\":\"ok\"}\n";
}

// "service-a;dur=0.123"
double server_timing(const Response& response) {
  const auto text = response.header("server-timing").value_or("");
  std::smatch match;
  if (!std::regex_match(text, match, std::regex(R"(service-a;dur=(\d+\.\d+))"))) {
    ADD_FAILURE() << "Server-Timing: " << text;
    return -1;
  }
  return std::stod(match[1]);
}

TEST_F(ServiceBAndA, AnswersEachEndpointExactly) {
  const std::vector<std::pair<std::string, std::string>> answers{
      {"/health", "{\"status\":\"ok\"}\n"},
      {"/ready", "{\"status\":\"ok\"}\n"},
      {"/call-echo", call_body("")},
      {"/call-echo?msg=", call_body("")},
      {"/call-echo?msg=hello", "{\"service_a\":{\"echo\":\"hello\"},\"service_b\":\"ok\"}\n"},
      {"/call-echo?msg=first&msg=second", call_body("first")},
      {"/call-echo?msg=a+b", call_body("a b")},
      {"/call-echo?msg=a%2Bb", call_body("a+b")},
      {"/call-echo?msg=%2541", call_body("%41")},
      {"/call-echo?msg=%00", call_body(std::string(1, '\0'))},
      {"/call-echo?msg=\xC3\xA9", call_body("\xC3\xA9")},
  };
  for (const auto& [target, body] : answers) {
    SCOPED_TRACE(target);
    expect_json(get(b.port(), target), 200, body);
  }
  for (const std::string target : {"/echo?msg=hello", "/call-echo/", "/nope"}) {
    SCOPED_TRACE(target);
    expect_json(get(b.port(), target), 404, "{\"error\":\"no such path\"}\n");
  }
  const auto post = get(b.port(), "/call-echo?msg=hello", {}, 5s, "POST");
  EXPECT_EQ(post.status(), 405);
  EXPECT_EQ(post.response->header("allow"), "GET, HEAD");
}

TEST_F(ServiceBAndA, SaysHowLongTheCallTook) {
  const auto result = get(b.port(), "/call-echo?msg=hello");
  ASSERT_TRUE(result.response);
  const auto duration = server_timing(*result.response);
  EXPECT_GT(duration, 0);
  const auto line = line_of(b.process(), *result.response);
  EXPECT_DOUBLE_EQ(std::stod(value(line, "upstream_ms")), duration);
  EXPECT_LE(duration, std::stod(value(line, "latency_ms")));
}

TEST_F(ServiceBAndA, AnswersHeadAsGetWithoutTheBody) {
  Connection connection(b.port());
  for (const std::string target :
       {"/health", "/ready", "/call-echo?msg=hello", "/call-echo?msg=%FF", "/nope"}) {
    SCOPED_TRACE(target);
    connection.send(request_text(target) + request_text(target, "HEAD") + request_text("/health"));
    const auto full = connection.read_response();
    const auto head = connection.read_response(5s, true);
    const auto next = connection.read_response();
    ASSERT_TRUE(full && head && next) << connection.error();
    EXPECT_EQ(head->status, full->status);
    EXPECT_EQ(lasting_headers(head->headers), lasting_headers(full->headers));
    EXPECT_EQ(next->body, "{\"status\":\"ok\"}\n");
  }
}

TEST_F(ServiceBAndA, EchoesEveryValidMessageExactly) {
  auto messages = tricky_messages();
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) messages.push_back(random_utf8(random, 40));
  Connection connection(b.port());
  for (const auto& msg : messages) {
    connection.send(request_text("/call-echo?msg=" + percent_encode(msg)));
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    expect_json(*response, 200, call_body(msg));
    EXPECT_EQ(response->json()["service_a"]["echo"], msg);
  }
}

TEST(ServiceBMessages, AreRefusedWithoutACallWhenTheyAreNotUtf8) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  for (const auto& msg : invalid_messages()) {
    SCOPED_TRACE(msg);
    expect_json(get(b.port(), "/call-echo?msg=" + msg), 400,
                "{\"error\":\"msg is not valid UTF-8\"}\n");
  }
  EXPECT_EQ(upstream.connections(), 0U);
}

// A '+' is one byte on the way to B, and three ("%20") on the way to A.
TEST_F(ServiceBAndA, AcceptsTheLongestMessageThatAAccepts) {
  const std::size_t room = 8192 - std::string("GET /echo?msg= HTTP/1.1").size();
  for (const std::size_t letters : {0U, 1U, 2U, 300U}) {
    SCOPED_TRACE(letters);
    const auto spaces = (room - letters) / 3;
    const auto more_letters = letters + (room - letters) % 3;
    const auto msg = std::string(more_letters, 'x') + std::string(spaces, ' ');
    std::string query = msg;
    std::replace(query.begin(), query.end(), ' ', '+');
    expect_json(get(b.port(), "/call-echo?msg=" + query), 200, call_body(msg));

    const auto refused = get(b.port(), "/call-echo?msg=x" + query);
    ASSERT_TRUE(refused.response) << refused.error;
    EXPECT_EQ(refused.status(), 414);
    EXPECT_EQ(refused.response->json().size(), 1U);
    EXPECT_TRUE(refused.response->json()["error"].is_string());
  }
  // The longest request line that B itself takes.
  const std::string letters(8192 - std::string("GET /call-echo?msg= HTTP/1.1").size(), 'x');
  expect_json(get(b.port(), "/call-echo?msg=" + letters), 200, call_body(letters));
  EXPECT_EQ(get(b.port(), "/call-echo?msg=x" + letters).status(), 414);
}

TEST(ServiceBMessages, ThatAreTooLongForAAreRefusedWithoutACall) {
  FaultyUpstream upstream(right_mode());
  auto b = start_b(upstream.url());
  EXPECT_EQ(get(b.port(), "/call-echo?msg=" + std::string(8000, '+')).status(), 414);
  EXPECT_EQ(upstream.connections(), 0U);
}

TEST(ServiceBWithoutA, StaysHealthyAndReady) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url());
  EXPECT_EQ(get(b.port(), "/call-echo?msg=hello").status(), 503);
  expect_json(get(b.port(), "/health"), 200, "{\"status\":\"ok\"}\n");
  expect_json(get(b.port(), "/ready"), 200, "{\"status\":\"ok\"}\n");
}

TEST(ServiceBWithoutA, AnswersUnavailableInExactlyThisShape) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url());
  for (const std::string method : {"GET", "HEAD"}) {
    const auto result = get(b.port(), "/call-echo?msg=hello", {}, 5s, method);
    ASSERT_TRUE(result.response) << result.error;
    const auto sentence =
        "nobody listens for service-a at 127.0.0.1:" + std::to_string(nobody.port());
    const auto body = "{\"error\":\"" + sentence +
                      "\",\"reason\":\"connection_refused\",\"service_a\":\"unavailable\","
                      "\"service_b\":\"ok\"}\n";
    EXPECT_EQ(result.status(), 503);
    EXPECT_EQ(result.response->body, method == "GET" ? body : "");
    EXPECT_EQ(result.response->header("content-length"), std::to_string(body.size()));
    EXPECT_EQ(result.response->header("content-type"), "application/json");
    EXPECT_EQ(result.response->header("retry-after"), "1");
    EXPECT_FALSE(result.response->header("connection"));  // the client did nothing wrong
    EXPECT_GE(server_timing(*result.response), 0);
    const auto line = line_of(b.process(), *result.response);
    EXPECT_EQ(value(line, "level"), "error");
    EXPECT_EQ(value(line, "error"), sentence);
  }
}

TEST(ServiceBCalls, SendARequestOfTheirOwnAndNothingOfTheClients) {
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
  EXPECT_EQ(result.status(), 200);
  const auto requests = upstream.requests();
  ASSERT_EQ(requests.size(), 1U);
  const auto& head = requests.front();
  EXPECT_TRUE(head.starts_with("GET /echo?msg=a%20b%26 HTTP/1.1\r\n")) << head;
  EXPECT_NE(head.find("\r\nHost: 127.0.0.1:" + std::to_string(upstream.port()) + "\r\n"),
            std::string::npos)
      << head;
  EXPECT_NE(head.find("\r\nX-Request-ID: id-1\r\n"), std::string::npos) << head;
  for (const auto* field : {"cookie", "authorization", "forwarded", "client/1", "text/html",
                            "br\r\n", "content-length", "transfer-encoding"}) {
    auto lower = head;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    EXPECT_EQ(lower.find(field), std::string::npos) << field << " in " << head;
  }
}

TEST_F(ServiceBAndA, FindsAByName) {
  auto by_name = start_b("http://localhost:" + std::to_string(a.port()));
  expect_json(get(by_name.port(), "/call-echo?msg=hello"), 200, call_body("hello"));
}

TEST_F(ServiceBAndA, AnswersManyClientsAtOnce) {
  std::vector<Connection> connections;
  for (int i = 0; i < 40; ++i) connections.emplace_back(b.port());
  for (int round = 0; round < 5; ++round) {
    for (std::size_t i = 0; i < connections.size(); ++i) {
      connections[i].send(request_text("/call-echo?msg=" + std::to_string(i)));
    }
    for (std::size_t i = 0; i < connections.size(); ++i) {
      const auto response = connections[i].read_response(kPatience);
      ASSERT_TRUE(response) << connections[i].error();
      expect_json(*response, 200, call_body(std::to_string(i)));
    }
  }
}

// A program that people use: writes the body to stdout, and something with the status to stderr.
struct EverydayClient {
  std::string name;
  std::vector<std::string> argv;  // the URL is added
};

void PrintTo(const EverydayClient& client, std::ostream* out) { *out << client.name; }

struct EverydayClients : testing::TestWithParam<EverydayClient> {};

TEST_P(EverydayClients, ReadEveryAnswer) {
  const auto& program = GetParam().argv.front();
  Process probe({"sh", "-c", "command -v " + program});
  if (probe.wait(kPatience) != 0) GTEST_SKIP() << program << " is not installed";

  auto a = start_a();
  const ClosedPort nobody;
  auto b = start_b(a.url());
  auto lonely_b = start_b(nobody.url());
  const std::vector<std::pair<const Service*, std::string>> requests{
      {&a, "/health"},
      {&a, "/ready"},
      {&a, "/echo?msg=%F0%9F%98%80%22+%25"},
      {&a, "/echo?msg=%FF"},
      {&a, "/nope"},
      {&a, "/echo?msg=" + std::string(8500, 'x')},
      {&b, "/health"},
      {&b, "/call-echo?msg=hello"},
      {&b, "/call-echo?msg=" + std::string(3000, '+')},
      {&lonely_b, "/call-echo?msg=hello"},
      {&lonely_b, "/ready"}};
  for (const auto& [service, target] : requests) {
    SCOPED_TRACE(target.substr(0, 60));
    const auto ours = get(service->port(), target);
    ASSERT_TRUE(ours.response) << ours.error;
    auto argv = GetParam().argv;
    argv.push_back(service->url() + target);
    // No proxy of the machine between us and 127.0.0.1.
    Process client(argv, {.environment = {"no_proxy=*", "NO_PROXY=*"}});
    ASSERT_TRUE(client.wait(kPatience));
    EXPECT_EQ(client.out(), ours.response->body) << client.err();
    EXPECT_NE(client.err().find("status " + std::to_string(ours.status())), std::string::npos)
        << client.err();
  }
}

const char* const kUrllib = R"(
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=20)
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.buffer.write(answer.read())
sys.stderr.write("status %d" % answer.status)
)";

INSTANTIATE_TEST_SUITE_P(
    Each, EverydayClients,
    testing::Values(EverydayClient{"curl", {"curl", "-sS", "-w", "%{stderr}status %{http_code}"}},
                    EverydayClient{"urllib", {"python3", "-c", kUrllib}}),
    testing::PrintToStringParamName());

// Nagle's algorithm would hold the second answer until the client's delayed acknowledgement.
TEST(Pipelining, OfCallsIsNotHeldUpByTcp) {
  auto a = start_a();
  auto b = start_b(a.url());
  Connection client(b.port());
  std::vector<milliseconds> times;
  for (int i = 0; i < 21; ++i) {
    const auto start = Clock::now();
    client.send(request_text("/call-echo?msg=x") + request_text("/call-echo?msg=x"));
    ASSERT_TRUE(client.read_response(kPatience)) << client.error();
    ASSERT_TRUE(client.read_response(kPatience)) << client.error();
    times.push_back(std::chrono::duration_cast<milliseconds>(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  EXPECT_LT(times[times.size() / 2], kSanitized ? 200ms : 30ms);  // it would be 40
}

}  // namespace
}  // namespace tests
