// Requests that two readers of one byte stream could understand differently: each has exactly one
// answer, an error, and the connection ends with it. What looks odd but is plain is served. One
// case of each kind; the others are the parser's, unit/request_head_test.cpp.

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::string_literals;

// A body that is itself a complete request. Its id would show in an answer to it.
const std::string kSmuggled =
    "GET /health HTTP/1.1\r\nHost: inner\r\nX-Request-ID: smuggled\r\n\r\n";

// Of RFC 9112, unless it says otherwise. Behind a Host, in requests of five methods.
const std::vector<std::pair<std::string, std::string>> kFieldsRefused{
    {"6.2: a body", "Content-Length: " + std::to_string(kSmuggled.size()) + "\r\n"},
    {"6.3: two lengths", "Content-Length: 0\r\nContent-Length: 5\r\n"},
    {"6.3: a list of lengths", "Content-Length: 0, 0\r\n"},
    {"RFC 9110, 8.6: a sign", "Content-Length: +0\r\n"},
    {"RFC 9110, 5.5: a control", "Content-Length: 0\f\r\n"},
    {"6.1: chunked", "Transfer-Encoding: chunked\r\n"},
    {"7: identity", "Transfer-Encoding: identity\r\n"},
    {"6.1: both", "Content-Length: 5\r\nTransFer-Encoding: chunked\r\n"},
    {"5.1: a space behind a name", "Transfer-Encoding : chunked\r\n"},
    {"5.1: no token", "Transfer-Encoding\x88: chunked\r\n"},
    {"RFC 3875, 4.1.18: like another", "Transfer_Encoding: chunked\r\n"},
    {"2.2: bare LF", "X: 1\nContent-Length: 5\r\n"},
    {"2.2: bare CR", "X: 1\rContent-Length: 5\r\n"},
    {"5.2: a folded line", "X: 1\r\n Transfer-Encoding: chunked\r\n"},
    {"5: no colon", "GET /health HTTP/1.1\r\n"},
    {"RFC 9110, 5.5: NUL", "X: 1\0Content-Length: 5\r\n"s},
    {"3.2: two hosts", "Host: b\r\n"},
};
const std::vector<std::pair<std::string, std::string>> kHeadsRefused{
    {"6.1: in 1.0", "POST /health HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {"3: two versions", "GET /health HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"},
    {"3.2: a control in the target", "GET /health\tHTTP/1.1\r\nHost: a\r\n\r\n"},
    {"2.3: another version", "GET /health HTTP/1.2\r\nHost: a\r\n\r\n"},
};
const std::vector<std::pair<std::string, std::string>> kHeadsServed{
    {"5: white space, odd case", "GET /health HTTP/1.1\r\nhoSt:\ta\r\nempty:\r\n\r\n"},
    {"6.2: no body", request_text("/health", "GET", "Content-Length: 0\r\n")},
    {"2.2: an empty line before", "\r\n" + kHealth},
    {"3.2.2: the absolute form", request_text("http://b/health")},
    {"5: another field",
     request_text("/health", "GET", "X-Transfer-Encoding: chunked\r\nTE: chunked\r\n")},
};

void expect_one_answer(Tested& tested, const std::string& what, const std::string& head) {
  SCOPED_TRACE(what + ", " + head);
  Connection connection(tested.port());
  const auto answer = ask(connection, head + kSmuggled, head.starts_with("HEAD"));
  EXPECT_GE(answer.status, 400);
  EXPECT_NE(answer.header("x-request-id"), "smuggled");
  expect_last(connection, answer);
}

TEST(Smuggling, HasNoSecondAnswer) {
  for_both({}, [](Tested& tested) {
    for (const auto& [what, fields] : kFieldsRefused) {
      for (const std::string method : {"GET", "POST", "PUT", "HEAD", "OPTIONS"}) {
        expect_one_answer(tested, what, request_text("/health", method, fields));
      }
    }
    for (const auto& [what, head] : kHeadsRefused) expect_one_answer(tested, what, head);
    for (const auto& [what, head] : kHeadsServed) {
      SCOPED_TRACE(what);
      Connection connection(tested.port());
      EXPECT_EQ(ask(connection, head + kSmuggled).status, 200);
      EXPECT_EQ(ask(connection, "").header("x-request-id"), "smuggled");
    }
  });
}

}  // namespace
}  // namespace tests
