// X-Request-ID and traceparent on their way through Service B. What is a valid one is
// unit/trace_test.cpp's.

#include <algorithm>

#include "integration/harness.hpp"

namespace tests {
namespace {

const std::string kCall = "/call-echo?msg=hello";
const std::string kTraceId = "0af7651916cd43dd8448eb211c80319c";
const std::string kParentId = "b7ad6b7169203331";
const std::string kTraceparent = "00-" + kTraceId + "-" + kParentId + "-01";

// A field of a request head as it was received; "(none)" where there is none.
std::string field_of(const std::string& head, const std::string& name) {
  const auto at = head.find("\r\n" + name + ": ");
  if (at == std::string::npos) return "(none)";
  const auto start = at + name.size() + 4;
  return head.substr(start, head.find("\r\n", start) - start);
}

// B in front of an upstream that keeps what it was sent.
struct Tracing : testing::Test {
  FaultyUpstream upstream{right_mode()};
  Service b = start_b(upstream.url());

  // The id on the answer to a call with these; the same is in the log and was sent on.
  std::string id_given(const Headers& headers) {
    const auto result = get(b.port(), kCall, headers);
    if (result.status() != 200) {
      ADD_FAILURE() << result.status() << result.error;
      return "";
    }
    const auto id = result.response->header("x-request-id").value_or("(none)");
    EXPECT_EQ(field_of(upstream.requests().back(), "X-Request-ID"), id);
    EXPECT_EQ(value(line_of(b.process(), *result.response), "request_id"), id);
    return id;
  }

  // What A is sent as that field when B is called with these.
  std::string sent_on(const std::string& name, const Headers& headers) {
    const auto result = get(b.port(), kCall, headers);
    EXPECT_EQ(result.status(), 200) << result.error;
    return field_of(upstream.requests().back(), name);
  }
};

TEST_F(Tracing, AValidRequestIdIsKeptAndAnyOtherReplacedByANewOne) {
  for (const std::string& id : {std::string("A.b_C-9"), std::string(128, 'x')}) {
    EXPECT_EQ(id_given({{"x-request-id", id}}), id);
  }
  std::vector<std::string> seen;
  for (const std::string& id : {std::string(), std::string("a b"), std::string("\"a\""),
                                std::string("\xC3\xA9"), std::string(129, 'x')}) {
    seen.push_back(id_given({{"X-Request-ID", id}}));
  }
  seen.push_back(id_given({}));
  seen.push_back(id_given({{"X-Request-ID", "a"}, {"X-Request-ID", "b"}}));  // neither of two
  for (const auto& id : seen) {
    EXPECT_TRUE(matches(id, "[0-9a-f]{32}")) << id;
    EXPECT_EQ(std::ranges::count(seen, id), 1) << id;
  }
}

TEST(TracingOfErrors, EveryAnswerHasTheRequestId) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url());
  struct Row {
    std::string target, method;
    int status;
  };
  for (const auto& [target, method, status] : std::vector<Row>{{"/nope", "GET", 404},
                                                               {"/health", "POST", 405},
                                                               {"/call-echo?msg=%FF", "GET", 400},
                                                               {kCall, "GET", 503},
                                                               {kCall, "HEAD", 503},
                                                               {"/metrics", "GET", 200}}) {
    const auto result =
        get(b.port(), target, {{"X-Request-ID", "my-id"}}, std::chrono::seconds(20), method);
    ASSERT_EQ(result.status(), status) << target;
    EXPECT_EQ(result.response->header("x-request-id"), "my-id") << target;
  }
  for (const std::string bytes : {"nonsense\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n"}) {
    Connection connection(b.port());
    const auto id = ask(connection, bytes).header("x-request-id").value_or("(none)");
    EXPECT_TRUE(matches(id, "[0-9a-f]{32}")) << bytes << id;
  }
}

TEST_F(Tracing, AValidTraceIsContinuedInANewSpanAndAnyOtherIsReplaced) {
  std::vector<std::string> spans;
  for (int i = 0; i < 2; ++i) {
    const auto sent = sent_on("traceparent", {{"Traceparent", "  " + kTraceparent}});
    EXPECT_TRUE(matches(sent, "00-" + kTraceId + "-[0-9a-f]{16}-01")) << sent;
    spans.push_back(sent);
  }
  EXPECT_NE(spans[0], spans[1]);
  EXPECT_EQ(sent_on("traceparent", {{"traceparent", kTraceparent}}).find(kParentId),
            std::string::npos);
  const std::vector<Headers> invalid{
      {},
      {{"traceparent", ""}},
      {{"traceparent", kTraceparent + "-"}},
      {{"traceparent", kTraceparent + "," + kTraceparent}},
      {{"traceparent", kTraceparent}, {"traceparent", kTraceparent}}};
  std::vector<std::string> traces;
  for (auto headers : invalid) {
    const auto sent = sent_on("traceparent", headers);
    EXPECT_TRUE(matches(sent, "00-[0-9a-f]{32}-[0-9a-f]{16}-01")) << sent;
    traces.push_back(sent.substr(3, 32));
    EXPECT_NE(traces.back(), kTraceId);
    headers.emplace_back("tracestate", "a=1");
    EXPECT_EQ(sent_on("tracestate", headers), "(none)");
  }
  for (const auto& trace : traces) EXPECT_EQ(std::ranges::count(traces, trace), 1) << trace;
}

TEST_F(Tracing, ATracestateIsSentOnWithAValidTrace) {
  const std::string state = "rojo=00f067aa0ba902b7,congo=t61, c=3";
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}, {"tracestate", state}}), state);
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}}), "(none)");
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}, {"tracestate", "a=\xC3\xA9"}}),
            "(none)");
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
    EXPECT_TRUE(matches(value(line_of_a, "trace_id"), headers.empty() ? "[0-9a-f]{32}" : kTraceId));
    EXPECT_EQ(value(line_of_a, "trace_id"), value(line_of_b, "trace_id"));
    EXPECT_EQ(value(line_of_a, "request_id"), value(line_of_b, "request_id"));
  }
}

}  // namespace
}  // namespace tests
