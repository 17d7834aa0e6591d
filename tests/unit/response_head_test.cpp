#include "common/http/response_head.hpp"

#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace common::http {
namespace {

using namespace std::string_literals;

struct Verdict {
  std::string text;  // "incomplete", "malformed", or the status, " reusable" behind it
  std::string body;
};

/// What becomes of an answer whose bytes come `piece` by `piece`: the head, then the chunks.
Verdict read(std::string_view bytes, std::size_t piece) {
  std::string in;
  std::optional<ResponseHead> head;
  ChunkedBody chunks;
  std::string body;
  while (true) {
    if (!head) {
      const auto parsed = parse_response_head(in);
      if (std::holds_alternative<MalformedResponse>(parsed)) return {"malformed", ""};
      if (const auto* found = std::get_if<ResponseHead>(&parsed)) {
        head = *found;
        in.erase(0, head->size);
      }
    }
    if (head && head->chunked && chunks.decode(in, body) != nullptr) return {"malformed", ""};
    if (head && (!head->chunked || chunks.complete())) {
      return {std::to_string(head->status) + (head->keep_alive ? " reusable" : ""), body};
    }
    if (bytes.empty()) return {"incomplete", ""};
    in += bytes.substr(0, piece);
    bytes.remove_prefix(std::min(piece, bytes.size()));
  }
}

struct Rule {
  std::string name;  // behind its section of RFC 9112, unless that says otherwise
  std::string verdict;
  std::vector<std::string> answers;
};

Rule rule(std::string name, std::string verdict, std::vector<std::string> answers) {
  return {std::move(name), std::move(verdict), std::move(answers)};
}

std::string ok(const std::string& fields, const std::string& rest = "") {
  return "HTTP/1.1 200 OK\r\n" + fields + "\r\n" + rest;
}
std::string sized(const std::string& body) {
  return ok("Content-Length: " + std::to_string(body.size()) + "\r\n", body);
}
std::string chunked(const std::string& rest) { return ok("Transfer-Encoding: chunked\r\n", rest); }
std::string with_head(std::size_t size) {
  const auto around = ok("Content-Length: 0\r\nX: \r\n").size();
  return ok("Content-Length: 0\r\nX: " + std::string(size - around, 'a') + "\r\n");
}

std::string repeated(const std::string& text, std::size_t size) {
  std::string bytes;
  while (bytes.size() < size) bytes += text;
  return bytes;
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all{
      // --- status line
      rule("4: more may come", "incomplete", {"", "HTT", "HTTP/1.1 500 x\r\n"}),
      rule("4: a reason or none", "200 reusable",
           {sized("hello"), "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"}),
      rule("2.3: another protocol", "malformed",
           {"SSH-2.0-x\r\n", "\x15", "http/1.1 200 OK\r\n\r\n", "HTTP/2 200\r\n\r\n"}),
      rule("4: a status of three digits", "malformed",
           {"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n",
            "HTTP/1.1 099 x\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n"}),
      rule("2.2: CRLF, and none before", "malformed", {"HTTP/1.1 200 OK\n\n", "\r\n" + sized("")}),
      rule("4: an answer that only needs a head", "500 reusable",
           {"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n"}),
      rule("RFC 9110, 15: above 599", "999 reusable", {"HTTP/1.1 999 x\r\n\r\n"}),
      rule("6.3: no content", "204 reusable", {"HTTP/1.1 204 No Content\r\n\r\n"}),
      // --- field lines
      rule("5: no field", "malformed",
           {ok("Content-Length : 0\r\n"), ok("X: 1\r\n 2\r\n"), ok("X\r\n"), ok(": 1\r\n"),
            ok("X: \0\r\n"s), ok("X: 1\rY: 2\r\n")}),
      rule("5: the longest head", "200 reusable", {with_head(16'384)}),
      rule("5: a longer head", "malformed",
           {with_head(16'385), ok("X: " + std::string(16'400, 'a')),
            "HTTP/1.1 200 " + std::string(16'400, 'a')}),
      // --- interim answers
      rule("RFC 9110, 15.2: are not the answer", "incomplete", {"HTTP/1.1 100 Continue\r\n\r\n"}),
      rule("RFC 9110, 15.2: nor is what they say", "200 reusable",
           {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nX: 1\r\n\r\n" + sized("a"),
            "HTTP/1.1 103 x\r\nContent-Length: 7\r\nConnection: close\r\n\r\n" + sized("a")}),
      rule("RFC 9110, 15.2.2: but 101 is", "101 reusable", {"HTTP/1.1 101 x\r\n\r\n"}),
      rule(
          "4: rubbish or no end behind them", "malformed",
          {"HTTP/1.1 100 x\r\n\r\nrubbish\r\n", repeated("HTTP/1.1 100 Continue\r\n\r\n", 16'385)}),
      // --- lengths
      rule("6.3: equal lengths", "200 reusable",
           {ok("Content-Length: 1\r\nContent-Length: 1\r\n", "a")}),
      rule("6.3: other lengths", "malformed",
           {ok("Content-Length: 1\r\nContent-Length: 2\r\n", "aa"),
            ok("Content-Length: 1, 1\r\n", "a"), ok("Content-Length: -1\r\n"),
            ok("Content-Length: +1\r\n", "a"), ok("Content-Length:\r\n"),
            ok("Content-Length: abc\r\n"), ok("Content-Length: 18446744073709551616\r\n")}),
      // --- chunked
      rule("7.1: chunks", "200 reusable",
           {chunked("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), chunked("0\r\n\r\n"),
            chunked("0000\r\n\r\n"), chunked("A\r\n0123456789\r\n0\r\n\r\n"),
            chunked("5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n"), chunked("5 ;a\r\nhello\r\n0\r\n\r\n"),
            chunked("0\r\nX: 1\r\nContent-Length: 9\r\n\r\n")}),
      rule("7.1: more chunks may come", "incomplete",
           {chunked("5\r\nhello\r\n"), chunked("5\r\nhel"), chunked("0\r\n")}),
      rule("7.1: no chunk", "malformed",
           {chunked("5\r\nhelloX"), chunked("5\r\nhello\rX"), chunked("5\nhello\r\n"),
            chunked("5;" + std::string(16'400, 'a'))}),
      rule("7.1: no size", "malformed",
           {chunked("g\r\n"), chunked("0x5\r\nhello\r\n"), chunked("-5\r\nhello\r\n"),
            chunked(" 5\r\nhello\r\n"), chunked("\r\n"), chunked("10000000000000000\r\n")}),
      rule("7.1.2: no trailer", "malformed",
           {chunked("0\r\nrubbish\r\n\r\n"), chunked("0\r\n\n"),
            chunked("0\r\nX: " + std::string(16'400, 'a'))}),
      rule("6.1: chunked once and alone", "malformed",
           {ok("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "0\r\n\r\n"),
            ok("Transfer-Encoding: gzip, chunked\r\n"), ok("Transfer-Encoding: banana\r\n"),
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")}),
      // --- whether the connection may go on
      rule("9.6: close", "200",
           {ok("Content-Length: 0\r\nConnection: close\r\n"),
            ok("Content-Length: 0\r\nConnection: x, CLOSE\r\n")}),
      rule("9.3: HTTP/1.0", "200",
           {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\n"}),
      rule("9.3: HTTP/1.0, keep-alive", "200 reusable",
           {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"}),
  };
  return all;
}

TEST(ResponseHead, GivesTheVerdictOfRfc9112HoweverTheBytesAreCut) {
  for (const auto& [name, verdict, answers] : rules()) {
    for (const auto& bytes : answers) {
      for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{100'000}}) {
        if (piece == 1 && bytes.size() > 1'000) continue;
        EXPECT_EQ(read(bytes, piece).text, verdict)
            << name << ", " << piece
            << " at a time: " << testing::PrintToString(bytes.substr(0, 200));
      }
    }
  }
}

TEST(ResponseHead, SaysWhereTheBodyEnds) {
  const auto head = [](const std::string& bytes) {
    return std::get<ResponseHead>(parse_response_head(bytes));
  };
  EXPECT_EQ(head(sized("hello")).size, sized("hello").size() - 5);
  EXPECT_EQ(head(sized("hello")).length, 5u);
  EXPECT_EQ(head(ok("")).length, std::nullopt);
  EXPECT_FALSE(head(ok("")).chunked);
  EXPECT_TRUE(head(chunked("")).chunked);
  const auto interim = "HTTP/1.1 103 x\r\nContent-Length: 7\r\n\r\n"s;
  EXPECT_EQ(head(interim + sized("a")).size, interim.size() + sized("a").size() - 1);
  EXPECT_EQ(head(interim + sized("a")).length, 1u);
}

TEST(ResponseHead, SaysWhatIsWrong) {
  const auto error = [](const std::string& bytes) {
    return std::string(std::get<MalformedResponse>(parse_response_head(bytes)).error);
  };
  EXPECT_EQ(error("nonsense"), "is not HTTP/1");
  EXPECT_EQ(error(with_head(16'385)), "has a head larger than 16 KiB");
  EXPECT_EQ(error(ok("X: 1\r\n 2\r\n")), "has a malformed header line");
}

TEST(ChunkedBody, HandsOutTheDataAndLeavesWhatIsBehindIt) {
  EXPECT_EQ(read(chunked("3;x\r\nhel\r\n2\r\nlo\r\n0\r\nX: 1\r\n\r\n"), 1).body, "hello");
  EXPECT_EQ(read(chunked("4\r\n\r\n\r\n\r\n0\r\n\r\n"), 1).body, "\r\n\r\n");
  std::string bytes = "1\r\na\r\n0\r\n\r\nHTTP/1.1";
  std::string data;
  ChunkedBody chunks;
  EXPECT_EQ(chunks.decode(bytes, data), nullptr);
  EXPECT_TRUE(chunks.complete());
  EXPECT_EQ(data, "a");
  EXPECT_EQ(bytes, "HTTP/1.1");
}

}  // namespace
}  // namespace common::http
