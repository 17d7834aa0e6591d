#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

const std::string kCall = "/call-echo?msg=hello";
const std::string kTraceId = "0af7651916cd43dd8448eb211c80319c";
const std::string kParentId = "b7ad6b7169203331";
const std::string kTraceparent = "00-" + kTraceId + "-" + kParentId + "-01";

// A field of a request head as it was received; nullopt where there is none.
std::optional<std::string> field_of(const std::string& head, const std::string& name) {
  std::smatch match;
  const std::regex form("\r\n" + name + ": *([^\r]*)\r\n", std::regex::icase);
  if (!std::regex_search(head, match, form)) return std::nullopt;
  return match[1];
}

struct Traceparent {
  std::string version;
  std::string trace_id;
  std::string parent_id;
  std::string flags;
};

Traceparent traceparent_of(const std::string& head) {
  const auto text = field_of(head, "traceparent").value_or("");
  std::smatch match;
  if (!std::regex_match(text, match,
                        std::regex("(00)-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")) ||
      match[2] == std::string(32, '0') || match[3] == std::string(16, '0')) {
    ADD_FAILURE() << "traceparent: " << text;
    return {};
  }
  return {match[1], match[2], match[3], match[4]};
}

// B in front of an upstream that keeps what it was sent.
struct Tracing : testing::Test {
  FaultyUpstream upstream{right_mode()};
  Service b = start_b(upstream.url());

  // What A is sent when B is called with these.
  std::string head_sent_on(const Headers& headers) {
    const auto result = get(b.port(), kCall, headers);
    EXPECT_EQ(result.status(), 200) << result.error;
    return upstream.requests().back();
  }
};

bool is_new_id(const std::string& text) {
  return std::regex_match(text, std::regex("[A-Za-z0-9._-]{1,128}"));
}

TEST_F(Tracing, AValidRequestIdIsOnTheAnswerInTheLogAndSentOn) {
  for (const std::string& id :
       std::vector<std::string>{"a", "abc-123", "A.b_C-9", "..", "-", std::string(128, 'x')}) {
    SCOPED_TRACE(id);
    const auto result = get(b.port(), kCall, {{"x-request-id", id}});
    ASSERT_EQ(result.status(), 200);
    EXPECT_EQ(result.response->header("x-request-id"), id);
    EXPECT_EQ(field_of(upstream.requests().back(), "X-Request-ID"), id);
    EXPECT_EQ(value(line_of(b.process(), *result.response), "status"), "200");
  }
}

TEST_F(Tracing, AnInvalidRequestIdIsReplacedByANewOne) {
  std::vector<std::string> seen;
  for (const std::string& id :
       std::vector<std::string>{"", "a b", "a/b", "a,b", "a;b", "\"a\"", "a=b", "a\tb", "\xC3\xA9",
                                "a%0Ab", "<a>", std::string(129, 'x')}) {
    SCOPED_TRACE(id);
    const auto result = get(b.port(), kCall, {{"X-Request-ID", id}});
    ASSERT_EQ(result.status(), 200);
    const auto given = result.response->header("x-request-id").value_or("");
    EXPECT_TRUE(is_new_id(given)) << given;
    EXPECT_NE(given, id);
    EXPECT_EQ(field_of(upstream.requests().back(), "X-Request-ID"), given);
    EXPECT_EQ(std::count(seen.begin(), seen.end(), given), 0);
    seen.push_back(given);
  }
  // Neither of two.
  const auto two = get(b.port(), kCall, {{"X-Request-ID", "a"}, {"X-Request-ID", "b"}});
  EXPECT_GT(two.response->header("x-request-id")->size(), 1U);
}

TEST(TracingOfErrors, EveryAnswerHasARequestId) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url());
  const Headers id{{"X-Request-ID", "my-id"}};
  for (const auto& [target, method, status] :
       std::vector<std::tuple<std::string, std::string, int>>{{"/nope", "GET", 404},
                                                              {"/health", "POST", 405},
                                                              {"/call-echo?msg=%FF", "GET", 400},
                                                              {kCall, "GET", 503},
                                                              {kCall, "HEAD", 503},
                                                              {"/metrics", "GET", 200}}) {
    const auto result = get(b.port(), target, id, 5s, method);
    EXPECT_EQ(result.status(), status);
    EXPECT_EQ(result.response->header("x-request-id"), "my-id") << target;
  }
  for (const std::string& bytes :
       std::vector<std::string>{"nonsense\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n"}) {
    Connection connection(b.port());
    connection.send(bytes);
    const auto response = connection.read_response();
    ASSERT_TRUE(response) << connection.error();
    EXPECT_TRUE(is_new_id(response->header("x-request-id").value_or(""))) << response->head;
  }
}

TEST_F(Tracing, AValidTraceIsContinuedInANewSpan) {
  // W3C Trace Context level 1, section 3.2; a later version may say more behind another dash.
  const std::string ids = kTraceId + "-" + kParentId;
  const std::vector<std::pair<std::string, std::string>> valid{
      {"00-" + ids + "-00", "00"},      {"00-" + ids + "-01", "01"},
      {"00-" + ids + "-02", "00"},      {"00-" + ids + "-03", "01"},
      {"00-" + ids + "-0a", "00"},      {"00-" + ids + "-0b", "01"},
      {"00-" + ids + "-fe", "00"},      {"00-" + ids + "-ff", "01"},
      {"01-" + ids + "-01", "01"},      {"cc-" + ids + "-00", "00"},
      {"cc-" + ids + "-01-more", "01"}, {"fe-" + ids + "-01-", "01"},
      {"  00-" + ids + "-01  ", "01"},
  };
  std::vector<std::string> spans{kParentId};
  for (const auto& [text, flags] : valid) {
    SCOPED_TRACE(text);
    const auto sent = traceparent_of(head_sent_on({{"Traceparent", text}}));
    EXPECT_EQ(sent.trace_id, kTraceId);
    EXPECT_EQ(sent.flags, flags);
    EXPECT_EQ(std::count(spans.begin(), spans.end(), sent.parent_id), 0) << sent.parent_id;
    spans.push_back(sent.parent_id);
  }
}

TEST_F(Tracing, AnInvalidOrAbsentTraceBecomesANewOneWithoutTracestate) {
  const std::string ids = kTraceId + "-" + kParentId;
  auto upper = kTraceparent;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::vector<Headers> invalid{{}};
  for (const auto& text : {std::string(),
                           std::string("x"),
                           ids,
                           "00-" + ids,
                           "00-" + ids + "-",
                           "00-" + ids + "-1",
                           "00-" + ids + "-001",
                           "00-" + ids + "-01-",
                           "00-" + ids + "-01-more",
                           "00-" + ids + "-01.",
                           "ff-" + ids + "-01",
                           "0-" + ids + "-01",
                           "000-" + ids + "-01",
                           "0x-" + ids + "-01",
                           "0G-" + ids + "-01",
                           "00-" + ids + "-0g",
                           "00_" + ids + "-01",
                           "00 " + ids + " 01",
                           upper,
                           "CC-" + ids + "-01",
                           "00-" + ids + "-0A",
                           "cc-" + ids + "-01more",
                           "00-" + std::string(32, '0') + "-" + kParentId + "-01",
                           "00-" + kTraceId + "-" + std::string(16, '0') + "-01",
                           "00-" + kTraceId.substr(1) + "-" + kParentId + "-01",
                           "00-" + kTraceId + "0-" + kParentId + "-01",
                           "00-" + kTraceId + "-" + kParentId.substr(1) + "-01",
                           "00-" + kTraceId + "-" + kParentId + "0-01",
                           kTraceparent + "," + kTraceparent}) {
    invalid.push_back({{"traceparent", text}});
  }
  invalid.push_back({{"traceparent", kTraceparent}, {"traceparent", kTraceparent}});
  std::vector<std::string> traces{kTraceId};
  for (auto& headers : invalid) {
    SCOPED_TRACE(headers.empty() ? "(none)" : headers.front().second);
    headers.emplace_back("tracestate", "vendor=value");
    const auto head = head_sent_on(headers);
    const auto sent = traceparent_of(head);
    EXPECT_EQ(std::count(traces.begin(), traces.end(), sent.trace_id), 0) << sent.trace_id;
    traces.push_back(sent.trace_id);
    EXPECT_FALSE(field_of(head, "tracestate")) << head;
  }
}

TEST_F(Tracing, ATracestateIsSentOnWithAValidTrace) {
  for (const std::string& state : std::vector<std::string>{"vendor=value", "a=1,b=2, c=3",
                                                           "rojo=00f067aa0ba902b7,congo=t61"}) {
    const auto head = head_sent_on({{"traceparent", kTraceparent}, {"tracestate", state}});
    EXPECT_EQ(field_of(head, "tracestate"), state);
  }
  EXPECT_FALSE(field_of(head_sent_on({{"traceparent", kTraceparent}}), "tracestate"));
  const auto head = head_sent_on({{"traceparent", kTraceparent}, {"tracestate", "a=\xC3\xA9"}});
  EXPECT_FALSE(field_of(head, "tracestate")) << head;
}

TEST(TracingThroughBoth, TheLogsOfAAndBShareTraceAndRequestId) {
  auto a = start_a();
  auto b = start_b(a.url());
  for (const auto& headers :
       {Headers{}, Headers{{"traceparent", kTraceparent}, {"X-Request-ID", "my-id"}}}) {
    const auto result = get(b.port(), kCall, headers);
    ASSERT_EQ(result.status(), 200);
    const auto line_of_a = line_of(a.process(), *result.response);
    const auto line_of_b = line_of(b.process(), *result.response);
    EXPECT_EQ(value(line_of_a, "trace_id"), value(line_of_b, "trace_id"));
    if (!headers.empty()) {
      EXPECT_EQ(value(line_of_a, "trace_id"), kTraceId);
      EXPECT_EQ(value(line_of_a, "request_id"), "my-id");
    }
  }
}

TEST_F(Tracing, ATraceWithoutACallerIsNewEachTime) {
  const auto first = traceparent_of(head_sent_on({}));
  const auto second = traceparent_of(head_sent_on({}));
  EXPECT_NE(first.trace_id, second.trace_id);
  EXPECT_NE(first.parent_id, second.parent_id);
  EXPECT_EQ(first.flags, "01");
}

}  // namespace
}  // namespace tests
