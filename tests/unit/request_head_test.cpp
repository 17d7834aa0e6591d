#include "common/http/request_head.hpp"

#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

namespace common::http {
namespace {

using namespace std::string_literals;

constexpr int kIncomplete = 0;
constexpr int kValid = 200;

int verdict(std::string_view bytes) {
  const auto parsed = parse_request_head(bytes);
  if (const auto* refusal = std::get_if<Refusal>(&parsed)) return refusal->status;
  return std::holds_alternative<RequestHead>(parsed) ? kValid : kIncomplete;
}

/// What a reader decides who gets `first` bytes, and then pieces of `size`.
int verdict_in_pieces(std::string_view bytes, std::size_t first, std::size_t size) {
  for (std::size_t end = first; end < bytes.size(); end += size) {
    if (const int early = verdict(bytes.substr(0, end)); early != kIncomplete) return early;
  }
  return verdict(bytes);
}

struct Rule {
  std::string name;  // behind its section of RFC 9112, unless that says otherwise
  int verdict;
  std::vector<std::string> heads;
};

Rule rule(std::string name, int verdict, std::vector<std::string> heads) {
  return {std::move(name), verdict, std::move(heads)};
}

std::string get(const std::string& fields) { return "GET / HTTP/1.1\r\n" + fields + "\r\n"; }
std::string post(const std::string& fields) { return "POST / HTTP/1.1\r\n" + fields + "\r\n"; }
std::string target(const std::string& text) {
  return "GET " + text + " HTTP/1.1\r\nHost: a\r\n\r\n";
}
// One that has a Host, and this line as well.
std::string field(const std::string& line) { return get("Host: a\r\n" + line + "\r\n"); }
std::string length(const std::string& value) {
  return post("Host: a\r\nContent-Length: " + value + "\r\n");
}
std::string coding(const std::string& value) {
  return post("Host: a\r\nTransfer-Encoding: " + value + "\r\n");
}
std::string host(const std::string& value) { return get("Host: " + value + "\r\n"); }

std::string many_fields(int count) {
  std::string fields;
  for (int i = 0; i < count; ++i) fields += "X-" + std::to_string(i) + ": 1\r\n";
  return fields;
}

// A GET whose request line has exactly `size` bytes, CRLF not counted.
std::string with_request_line(std::size_t size) {
  std::string path(size - "GET  HTTP/1.1"s.size(), 'a');
  path.front() = '/';
  return target(path);
}

// A GET whose head has exactly `size` bytes.
std::string with_head(std::size_t size) {
  const auto around = field("X: ").size();
  return get("Host: a\r\nX: " + std::string(size - around, 'a') + "\r\n");
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all{
      // --- request line
      rule("2.2: more may come", kIncomplete,
           {"", "\r", "\r\n", "GE", "GET / HTTP/1.1\r\nHost: a\r\n\rX"}),
      rule("2.2: an empty line may come first", kValid, {"\r\n" + host("a")}),
      rule("2.2: nothing else may", 400, {"\r\n\r\n" + host("a"), "\n", "\rG"}),
      rule("3: three words, a space between them", 400,
           {" GET / HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n", "GET /  HTTP/1.1\r\n",
            "GET / HTTP/1.1 \r\n", "GET\t/\tHTTP/1.1\r\n", "GET /a b HTTP/1.1\r\n", "GET /\r\n",
            "GET / \r\n", "GET\r\n", " / HTTP/1.1\r\n"}),
      rule(
          "2.2: a line ends with CRLF", 400,
          {"GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\rHost: a\r\n\r\n", "GET / HTTP/1.1\r\r\n",
           "GET / HTTP/1.1\r\nHost: a\r\n\n", "GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n",
           field("X: 1\rY: 2"), field("X: 1\nY: 2")}),
      rule("RFC 9110, 9.1: a method is any token", kValid,
           {"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "get / HTTP/1.1\r\nHost: a\r\n\r\n"}),
      rule("RFC 9110, 9.1: and nothing else", 400,
           {"G\0T / HTTP/1.1\r\n"s, "GE[T / HTTP/1.1\r\n", "\x16\x03\x01\x02"}),  // TLS
      rule("2.3: 1.0 and 1.1 are understood", kValid, {host("a"), "GET / HTTP/1.0\r\n\r\n"}),
      rule("2.3: other versions are not", 505,
           {"GET / HTTP/0.9\r\n", "GET / HTTP/1.2\r\n", "GET / HTTP/2.0\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}),  // RFC 9113, 3.4
      rule("2.3: what is no version", 400,
           {"GET / http/1.1\r\n", "GET / HTTP/1.10\r\n", "GET / HTTP/01.1\r\n", "GET / HTTP/1\r\n",
            "GET / HTTP/a.b\r\n", "GET / ICY/1.1\r\n"}),
      // --- target
      rule("3.2.1: origin form", kValid,
           {target("/a?b=c&d"), target("/?"), target("/a?u=http://b/c"), target("/\xc3\xa4"),
            target("/%00%zz%")}),
      rule("3.2.2: absolute form", kValid,
           {target("http://example.com:80/a?b"), target("http://example.com"),
            target("http://example.com?b"), target("HTTP://a/")}),
      rule("RFC 9110, 4.2: its host, no user, its scheme", 400,
           {target("http://"), target("http:///a"), target("http://user@a/"), target("ftp://a/")}),
      rule("3.2.4: asterisk form", kValid, {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"}),
      rule("3.2: no other form", 400,
           {target("*"), target("a"), target("http"), "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"}),
      rule("3.2: no fragment and no control", 400,
           {target("/a#b"), target("/a\0b"s), target("/a\x7f"), target("/a\tb")}),
      // --- field lines
      rule("5: white space around the value", kValid,
           {get("Host:a\r\n"), get("Host: \t a \t\r\n"), field("X:")}),
      rule("RFC 9110, 5.5: obs-text in a value", kValid, {field("X: \xff")}),
      rule("RFC 9110, 5.6.2: every token character", kValid, {field("!#$%&'*+-.^_`|~09azAZ: 1")}),
      rule("5.1: no white space before the colon", 400,
           {get("Host : a\r\n"), get("Host\t: a\r\n"), get(" Host: a\r\n")}),
      rule("5.2: no folded line", 400, {field("X: 1\r\n 2"), field("X: 1\r\n\t2")}),
      rule("5.1: a name that is a token, and a colon", 400,
           {field("X"), field(": 1"), field("X[]: 1"), field("X\xff: 1"), field("X\0: 1"s)}),
      rule("RFC 9110, 5.5: no control in a value", 400,
           {field("X: 1\0"s), field("X: \x07"), field("X: \x7f"), field("X: \v1")}),
      // --- Host
      rule("3.2: one Host, in 1.0 none as well", kValid,
           {host("example.com"), host(""), "GET / HTTP/1.0\r\n\r\n"}),
      rule("3.2: neither none nor two", 400,
           {get(""), field("host: a"), "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"}),
      rule("RFC 9110, 7.2: a host and a port", kValid,
           {host("a:80"), host("a:"), host("[::1]:80")}),
      rule("RFC 9110, 7.2: nothing else", 400,
           {host("a, b"), host("user@a"), host("a/b"), host("a:1:2"), host("a:http"), host("[::1"),
            host("\xc3\xa4")}),
      // --- framing
      rule("6.3: a body", kValid, {length("5"), post("Host: a\r\ntransfer-encoding: Chunked\r\n")}),
      rule("6.2: no body of a GET", kValid, {field("Content-Length: 0")}),
      rule("RFC 9110, 9.3: nor of a HEAD", 400,
           {field("Content-Length: 1"), field("Transfer-Encoding: chunked"),
            "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"}),
      rule("6.3: one length", 400, {length("5\r\nContent-Length: 5"), length("5, 5")}),
      rule("RFC 9110, 8.6: digits", 400,
           {length("-1"), length("+1"), length("0x1"), length("1.0"), length("1 1"), length(""),
            length("18446744073709551616"), length("1\xa0")}),
      rule("6.1: a length or chunked", 400,
           {length("5\r\nTransfer-Encoding: chunked"), coding("chunked\r\nContent-Length: 0")}),
      rule("6.1: chunked not in 1.0", 400,
           {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"}),
      rule("6.1, 7: chunked, once and alone", 400,
           {coding("chunked\r\nTransfer-Encoding: chunked"), coding("gzip, chunked"),
            coding("chunked, gzip"), coding("identity"), coding("xchunked"), coding("\"chunked\""),
            coding("")}),
      rule("RFC 3875, 4.1.18: names that CGI takes for them", 400,
           {field("Content_Length: 5"), field("Transfer--Encoding: x"),
            field("transferencoding: x"), field("Content-Length~: 5")}),
      rule("5.1: other names", kValid,
           {field("X-Content-Length: 5\r\nContent-Lengths: 5\r\nTransfer-Encoding2: x")}),
      // --- limits (RFC 9110, section 15.5.15; RFC 6585, section 5)
      rule("3: the longest line", kValid, {with_request_line(8192)}),
      rule("3: may still have CRLF", kIncomplete, {"GET " + std::string(8188, '/') + "\r"}),
      rule("3: a longer line", 414,
           {with_request_line(8193), std::string(8193, 'a') + "\n", std::string(8193, 'a'),
            "\r\n" + with_request_line(8193)}),
      rule("5: the longest head", kValid, {with_head(16'384), with_head(12'000)}),
      rule("5: a longer head", 431,
           {with_head(16'385), "GET / HTTP/1.1\r\nX: " + std::string(16'384, 'a')}),
      rule("5: the most fields", kValid, {get("Host: a\r\n" + many_fields(99))}),
      rule("5: more fields", 431, {get("Host: a\r\n" + many_fields(100))}),
  };
  return all;
}

TEST(RequestHead, HasTheVerdictOfRfc9112HoweverTheBytesAreCut) {
  for (const auto& [name, expected, heads] : rules()) {
    for (const auto& bytes : heads) {
      SCOPED_TRACE(name + ": " + testing::PrintToString(bytes.substr(0, 200)));
      EXPECT_EQ(verdict(bytes), expected);
      // The whole of 16 KiB a byte at a time is quadratic: there, only the end is.
      const auto first = bytes.size() > 600 ? bytes.size() - 300 : 0;
      for (const std::size_t size : {1u, 2u, 3u, 7u}) {
        EXPECT_EQ(verdict_in_pieces(bytes, first, size), expected) << "pieces of " << size;
      }
      for (const std::size_t size : {100u, 4096u, 8192u, 8193u, 8194u}) {
        EXPECT_EQ(verdict_in_pieces(bytes, 0, size), expected) << "pieces of " << size;
      }
    }
  }
}

TEST(RequestHead, EndsWhereItEndsAndNeitherEarlierNorLater) {
  for (const auto& [name, expected, heads] : rules()) {
    if (expected != kValid) continue;
    for (const auto& bytes : heads) {
      SCOPED_TRACE(name + ": " + testing::PrintToString(bytes.substr(0, 200)));
      for (std::size_t size = 0; size < bytes.size(); size += bytes.size() < 600 ? 1 : 97) {
        ASSERT_EQ(verdict(bytes.substr(0, size)), kIncomplete) << size;
      }
      ASSERT_EQ(verdict(bytes.substr(0, bytes.size() - 1)), kIncomplete);
      for (const std::string& more :
           {""s, "x"s, "\r"s, "\n"s, "\0"s, bytes, std::string(20'000, 'x')}) {
        const auto parsed = parse_request_head(bytes + more);
        ASSERT_TRUE(std::holds_alternative<RequestHead>(parsed));
        EXPECT_EQ(std::get<RequestHead>(parsed).size, bytes.size());
      }
    }
  }
}

// Bytes put together at random from what matters to the grammar: whatever they are, a reader that
// gets them one by one decides the same as one that gets them at once.
TEST(RequestHead, RandomBytesGetTheSameVerdictHoweverTheyAreCut) {
  std::istringstream list(
      "GET| |/|HTTP/1.1|HTTP/1.0|\r\n|\r|\n|Host|:|a|\t|\0|Content-Length|5|Transfer-Encoding|"
      "chunked|\r\n\r\n|X: 1\r\n|Host: a\r\n|GET / HTTP/1.1\r\n|\x80"s);
  std::vector<std::string> parts;
  for (std::string part; std::getline(list, part, '|');) parts.push_back(part);
  std::mt19937 random(20261123);
  for (int round = 0; round < 3'000; ++round) {
    std::string bytes = round % 2 == 0 ? "GET / HTTP/1.1\r\nHost: a\r\n" : "";
    for (auto left = random() % 12; left > 0; --left) bytes += parts[random() % parts.size()];
    const int whole = verdict(bytes);
    for (const std::size_t size : {1u, 2u, 3u, 5u}) {
      ASSERT_EQ(verdict_in_pieces(bytes, 0, size), whole) << testing::PrintToString(bytes);
    }
  }
}

RequestHead parse(std::string_view bytes) {
  return std::get<RequestHead>(parse_request_head(bytes));
}

TEST(RequestHead, SplitsWhatItAccepts) {
  const auto bytes = "HEAD /a%20b?c=d?e HTTP/1.1\r\nHost: x\r\nA:\t1 2 \r\na: 3\r\n\r\nnext"s;
  const auto head = parse(bytes);
  EXPECT_EQ(head.size, bytes.size() - 4);
  EXPECT_EQ(head.method, "HEAD");
  EXPECT_EQ(head.path, "/a%20b");
  EXPECT_EQ(head.query, "c=d?e");
  ASSERT_EQ(head.fields.size(), 3u);
  EXPECT_EQ(head.fields[1].name, "A");
  EXPECT_EQ(head.fields[1].value, "1 2");
  EXPECT_EQ(head.only("HOST"), "x");
  EXPECT_EQ(head.only("a"), "") << "two of them: neither is taken";
  EXPECT_EQ(head.only("b"), "");
  EXPECT_FALSE(head.http_1_0);
}

TEST(RequestHead, TakesThePathOutOfTheAbsoluteForm) {
  EXPECT_EQ(parse(target("http://a:80/b?c")).path, "/b");
  EXPECT_EQ(parse(target("http://a:80/b?c")).query, "c");
  EXPECT_EQ(parse(target("https://a")).path, "/");
  EXPECT_EQ(parse(target("http://a?c")).path, "/");
  EXPECT_EQ(parse(target("http://a?c")).query, "c");
}

TEST(RequestHead, KnowsWhetherTheConnectionMayGoOn) {
  const auto keep_alive = [](const std::string& version, const std::string& connection) {
    return parse("GET / HTTP/" + version + "\r\nHost: a\r\n" + connection + "\r\n").keep_alive;
  };
  EXPECT_TRUE(keep_alive("1.1", ""));
  EXPECT_FALSE(keep_alive("1.1", "Connection: close\r\n"));
  EXPECT_FALSE(keep_alive("1.1", "Connection: Upgrade,CLOSE\r\n"));
  EXPECT_FALSE(keep_alive("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
  EXPECT_TRUE(keep_alive("1.1", "Connection: closed\r\n"));
  EXPECT_FALSE(keep_alive("1.0", ""));
  EXPECT_TRUE(keep_alive("1.0", "Connection: Keep-Alive\r\n"));
  EXPECT_FALSE(keep_alive("1.0", "Connection: keep-alive, close\r\n"));
}

TEST(RequestHead, ARefusalSaysWhatWasUnderstood) {
  const auto refusal = [](std::string_view bytes) {
    return std::get<Refusal>(parse_request_head(bytes));
  };
  EXPECT_EQ(refusal("PUT /a?b HTTP/1.1\r\nX : 1\r\n").method, "PUT");
  EXPECT_EQ(refusal("PUT /a?b HTTP/1.1\r\nX : 1\r\n").path, "/a");
  EXPECT_STRNE(refusal("PUT /a?b HTTP/1.1\r\nX : 1\r\n").error, "");
  EXPECT_EQ(refusal("\x16\x03\x01\n").method, "");
  // The answer to HEAD has no body, whatever is wrong.
  EXPECT_EQ(refusal("HEAD /a b HTTP/1.1\r\n").method, "HEAD");
  EXPECT_EQ(refusal("HEAD /" + std::string(kMaxRequestLine, 'a')).method, "HEAD");
}

}  // namespace
}  // namespace common::http
