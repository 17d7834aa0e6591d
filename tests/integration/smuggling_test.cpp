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

struct Row {
  std::string what;
  bool served;       // 200, and the connection goes on; otherwise a refusal, and it ends
  std::string line;  // the request line; "" for GET, POST, PUT, HEAD and OPTIONS of /health
  std::string fields;
};

const std::string kGet = "GET /health HTTP/1.1\r\n";
const std::string kHost = "Host: a\r\n";

// Of RFC 9112, unless it says otherwise.
const std::vector<Row> kRows{
    {"6.2: a body", false, "",
     kHost + "Content-Length: " + std::to_string(kSmuggled.size()) + "\r\n"},
    {"6.3: two lengths", false, "", kHost + "Content-Length: 0\r\nContent-Length: 5\r\n"},
    {"6.3: a list of lengths", false, "", kHost + "Content-Length: 0, 0\r\n"},
    {"RFC 9110, 8.6: a sign", false, "", kHost + "Content-Length: +0\r\n"},
    {"RFC 9110, 5.5: a control", false, "", kHost + "Content-Length: 0\f\r\n"},
    {"6.1: chunked", false, "", kHost + "Transfer-Encoding: chunked\r\n"},
    {"7: identity", false, "", kHost + "Transfer-Encoding: identity\r\n"},
    {"6.1: both", false, "", kHost + "Content-Length: 5\r\nTransFer-Encoding: chunked\r\n"},
    {"6.1: in 1.0", false, "POST /health HTTP/1.0\r\n", kHost + "Transfer-Encoding: chunked\r\n"},
    {"5.1: a space behind a name", false, "", kHost + "Transfer-Encoding : chunked\r\n"},
    {"5.1: no token", false, "", kHost + "Transfer-Encoding\x88: chunked\r\n"},
    {"RFC 3875, 4.1.18: like another", false, "", kHost + "Transfer_Encoding: chunked\r\n"},
    {"2.2: bare LF", false, "", kHost + "X: 1\nContent-Length: 5\r\n"},
    {"2.2: bare CR", false, "", kHost + "X: 1\rContent-Length: 5\r\n"},
    {"5.2: a folded line", false, "", kHost + "X: 1\r\n Transfer-Encoding: chunked\r\n"},
    {"5: no colon", false, "", kHost + "GET /health HTTP/1.1\r\n"},
    {"RFC 9110, 5.5: NUL", false, "", kHost + "X: 1\0Content-Length: 5\r\n"s},
    {"3.2: two hosts", false, "", kHost + "Host: b\r\n"},
    {"3: two versions", false, "GET /health HTTP/1.1 HTTP/1.1\r\n", kHost},
    {"3.2: a control in the target", false,
     "GET /health\tHTTP/1.1\r\nHost: a\r\n\r\nGET\t/metrics\t HTTP/1.1\r\n", kHost},
    {"2.3: another version", false, "GET /health HTTP/1.2\r\n", kHost},
    {"5: white space, odd case", true, kGet, "hoSt:\ta\r\nempty:\r\n"},
    {"6.2: no body", true, kGet, kHost + "Content-Length: 0\r\n"},
    {"2.2: an empty line before", true, "\r\n" + kGet, kHost},
    {"3.2.2: the absolute form", true, "GET http://b/health HTTP/1.1\r\n", kHost},
    {"5: another field", true, kGet, kHost + "X-Transfer-Encoding: chunked\r\nTE: chunked\r\n"},
};

TEST(Smuggling, HasNoSecondAnswer) {
  for_both({}, [](Tested& tested) {
    for (const auto& [what, served, one_line, fields] : kRows) {
      std::vector<std::string> lines{one_line};
      if (one_line.empty()) {
        lines.clear();
        for (const std::string method : {"GET", "POST", "PUT", "HEAD", "OPTIONS"}) {
          lines.push_back(method + " /health HTTP/1.1\r\n");
        }
      }
      for (const auto& line : lines) {
        SCOPED_TRACE(what + ", " + line);
        Connection connection(tested.port());
        const bool head = line.starts_with("HEAD");
        const auto answer = ask(connection, line + fields + "\r\n" + kSmuggled, head);
        if (served) {
          EXPECT_EQ(answer.status, 200);
          EXPECT_EQ(ask(connection, "").header("x-request-id"), "smuggled");
          continue;
        }
        EXPECT_GE(answer.status, 400);
        EXPECT_NE(answer.header("x-request-id"), "smuggled");
        EXPECT_EQ(answer.header("connection"), "close");
        EXPECT_TRUE(connection.closed_by_peer());
        EXPECT_EQ(connection.unread(), "");
      }
    }
  });
}

}  // namespace
}  // namespace tests
