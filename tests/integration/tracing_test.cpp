// X-Request-ID and traceparent on their way through Service B. More traceparents that are not
// valid: unit/trace_test.cpp.

#include <set>

#include "integration/harness.hpp"

namespace tests {
namespace {

const std::string kTraceId = "0af7651916cd43dd8448eb211c80319c";
const std::string kParentId = "b7ad6b7169203331";
const std::string kTraceparent = "00-" + kTraceId + "-" + kParentId + "-01";

// B in front of an upstream that keeps what it was sent.
struct Tracing : testing::Test {
  FaultyUpstream upstream{right_mode()};
  Service b = start_b(upstream.url());

  // A field of the last request that A was sent; "(none)" where there is none.
  std::string sent(const std::string& name) const {
    const auto requests = upstream.requests();
    const auto head = requests.empty() ? "" : requests.back();
    const auto at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "(none)";
    const auto start = at + name.size() + 4;
    return head.substr(start, head.find("\r\n", start) - start);
  }

  // The id on the answer to a call with these; the same is in the log and was sent on.
  std::string id_given(const Headers& headers) {
    const auto result = get(b.port(), kCall, headers);
    EXPECT_EQ(result.status, 200) << result.error;
    const auto id = result.header("x-request-id").value_or("(none)");
    EXPECT_EQ(sent("X-Request-ID"), id);
    EXPECT_EQ(value(line_of(b.process(), result), "request_id"), id);
    return id;
  }

  // What A is sent as that field when B is called with these.
  std::string sent_on(const std::string& name, const Headers& headers) {
    const auto result = get(b.port(), kCall, headers);
    EXPECT_EQ(result.status, 200) << result.error;
    return sent(name);
  }
};

TEST_F(Tracing, AValidRequestIdIsKeptAndAnyOtherReplacedByANewOne) {
  for (const std::string& id : {std::string("A-Z_a.z09"), std::string(128, 'x')}) {
    EXPECT_EQ(id_given({{"x-request-id", id}}), id);
  }
  std::set<std::string> seen;
  for (const Headers& headers :
       std::vector<Headers>{{},
                            {{"X-Request-ID", ""}},
                            {{"X-Request-ID", "a b"}},
                            {{"X-Request-ID", "\"a\""}},
                            {{"X-Request-ID", "a/b"}},
                            {{"X-Request-ID", "a=b"}},
                            {{"X-Request-ID", "\xC3\xA9"}},
                            {{"X-Request-ID", std::string(129, 'x')}},
                            {{"X-Request-ID", "a"}, {"X-Request-ID", "b"}}}) {  // neither of two
    const auto id = id_given(headers);
    EXPECT_TRUE(matches(id, "[0-9a-f]{32}")) << id;
    EXPECT_TRUE(seen.insert(id).second) << id;
  }
}

TEST(TracingOfErrors, EveryAnswerHasTheRequestId) {
  const ClosedPort nobody;
  auto b = start_b(nobody.url());
  for (const auto& [target, method, status] :
       std::vector<std::tuple<std::string, std::string, int>>{{"/nope", "GET", 404},
                                                              {"/health", "POST", 405},
                                                              {"/call-echo?msg=%FF", "GET", 400},
                                                              {kCall, "GET", 503},
                                                              {kCall, "HEAD", 503},
                                                              {"/metrics", "GET", 200}}) {
    const auto result = get(b.port(), target, {{"X-Request-ID", "my-id"}}, kPatience, method);
    EXPECT_EQ(result.status, status) << target;
    EXPECT_EQ(result.header("x-request-id"), "my-id") << target;
  }
  for (const std::string bytes : {"nonsense\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n"}) {
    Connection connection(b.port());
    const auto id = ask(connection, bytes).header("x-request-id").value_or("(none)");
    EXPECT_TRUE(matches(id, "[0-9a-f]{32}")) << bytes << id;
  }
}

TEST_F(Tracing, AValidTraceIsContinuedInANewSpanAndAnyOtherIsReplaced) {
  std::set<std::string> traces;
  std::set<std::string> spans;
  for (int i = 0; i < 2; ++i) {
    const auto sent = sent_on("traceparent", {{"Traceparent", "  " + kTraceparent}});
    EXPECT_TRUE(matches(sent, "00-" + kTraceId + "-[0-9a-f]{16}-01")) << sent;
    EXPECT_EQ(sent.find(kParentId), std::string::npos);
    EXPECT_TRUE(spans.insert(sent).second) << sent;
  }
  const std::vector<Headers> invalid{
      {},
      {{"traceparent", ""}},
      {{"traceparent", kTraceparent + "-"}},
      {{"traceparent", kTraceparent + "," + kTraceparent}},
      {{"traceparent", kTraceparent}, {"traceparent", kTraceparent}}};
  for (auto headers : invalid) {
    const auto sent = sent_on("traceparent", headers);
    EXPECT_TRUE(matches(sent, "00-[0-9a-f]{32}-[0-9a-f]{16}-01")) << sent;
    EXPECT_TRUE(traces.insert(sent.substr(3, 32)).second) << sent;
    headers.emplace_back("tracestate", "a=1");
    EXPECT_EQ(sent_on("tracestate", headers), "(none)");
  }
  EXPECT_FALSE(traces.contains(kTraceId));
}

TEST_F(Tracing, ATracestateIsSentOnWithAValidTrace) {
  const std::string state = "rojo=00f067aa0ba902b7,congo=t61, c=3";
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}, {"tracestate", state}}), state);
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}}), "(none)");
  EXPECT_EQ(sent_on("tracestate", {{"traceparent", kTraceparent}, {"tracestate", "a=\xC3\xA9"}}),
            "(none)");
}

}  // namespace
}  // namespace tests
