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

struct Case {
  const char* name;
  const char* section;  // of RFC 9112, unless it says otherwise
  std::string bytes;
  int verdict;
};

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

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      // --- request line
      {"nothing", "2.2", "", kIncomplete},
      {"plain", "3", host("example.com"), kValid},
      {"empty_line_before", "2.2", "\r\n" + host("a"), kValid},
      {"two_empty_lines_before", "2.2", "\r\n\r\n" + host("a"), 400},
      {"only_an_empty_line", "2.2", "\r\n", kIncomplete},
      {"only_cr", "2.2", "\r", kIncomplete},
      {"bare_lf_first", "2.2", "\n", 400},
      {"space_first", "3", " GET / HTTP/1.1\r\n", 400},
      {"two_spaces_before_the_target", "3", "GET  / HTTP/1.1\r\n", 400},
      {"two_spaces_before_the_version", "3", "GET /  HTTP/1.1\r\n", 400},
      {"space_after_the_version", "3", "GET / HTTP/1.1 \r\n", 400},
      {"tab_for_space", "3", "GET\t/\tHTTP/1.1\r\n", 400},
      {"no_version", "3", "GET /\r\n", 400},
      {"empty_version", "3", "GET / \r\n", 400},
      {"method_alone", "3", "GET\r\n", 400},
      {"space_in_the_target", "3.2", "GET /a b HTTP/1.1\r\n", 400},
      {"bare_lf_ends_the_line", "2.2", "GET / HTTP/1.1\nHost: a\n\n", 400},
      {"bare_cr_in_the_line", "2.2", "GET / HTTP/1.1\rHost: a\r\n\r\n", 400},
      {"two_cr", "2.2", "GET / HTTP/1.1\r\r\n", 400},
      {"nul_in_the_method", "RFC 9110, 9.1", "G\0T / HTTP/1.1\r\n"s, 400},
      {"method_that_is_no_token", "RFC 9110, 9.1", "GE[T / HTTP/1.1\r\n", 400},
      {"tls", "RFC 9110, 9.1", "\x16\x03\x01\x02", 400},
      {"cr_and_a_method", "2.2", "\rG", 400},
      {"half_a_method", "RFC 9110, 9.1", "GE", kIncomplete},
      {"empty_method", "RFC 9110, 9.1", " / HTTP/1.1\r\n", 400},
      {"unknown_method", "RFC 9110, 9.1", "BREW / HTTP/1.1\r\nHost: a\r\n\r\n", kValid},
      {"lower_case_method", "RFC 9110, 9.1", "get / HTTP/1.1\r\nHost: a\r\n\r\n", kValid},
      {"http_1_0", "2.3", "GET / HTTP/1.0\r\n\r\n", kValid},
      {"http_1_2", "2.3", "GET / HTTP/1.2\r\n", 505},
      {"http_2_0", "2.3", "GET / HTTP/2.0\r\n", 505},
      {"http_2_preface", "RFC 9113, 3.4", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"http_0_9", "2.3", "GET / HTTP/0.9\r\n", 505},
      {"lower_case_version", "2.3", "GET / http/1.1\r\n", 400},
      {"version_with_two_digits", "2.3", "GET / HTTP/1.10\r\n", 400},
      {"version_with_a_leading_zero", "2.3", "GET / HTTP/01.1\r\n", 400},
      {"version_without_minor", "2.3", "GET / HTTP/1\r\n", 400},
      {"version_of_letters", "2.3", "GET / HTTP/a.b\r\n", 400},
      {"another_protocol", "2.3", "GET / ICY/1.1\r\n", 400},
      // --- target
      {"query", "3.2.1", target("/a?b=c&d"), kValid},
      {"empty_query", "3.2.1", target("/?"), kValid},
      {"url_in_the_query", "3.2.1", target("/a?u=http://b/c"), kValid},
      {"raw_utf_8", "3.2.1", target("/\xc3\xa4"), kValid},
      {"percent_escapes", "3.2.1", target("/%00%zz%"), kValid},
      {"absolute_form", "3.2.2", target("http://example.com:80/a?b"), kValid},
      {"absolute_form_without_path", "RFC 9110, 4.2.3", target("http://example.com"), kValid},
      {"absolute_form_and_query", "RFC 9110, 4.2.3", target("http://example.com?b"), kValid},
      {"absolute_form_upper_case", "RFC 3986, 3.1", target("HTTP://a/"), kValid},
      {"absolute_form_without_host", "RFC 9110, 4.2.1", target("http://"), 400},
      {"absolute_form_with_empty_host", "RFC 9110, 4.2.1", target("http:///a"), 400},
      {"absolute_form_with_user", "RFC 9110, 4.2.4", target("http://user@a/"), 400},
      {"absolute_form_of_another_scheme", "3.2.2", target("ftp://a/"), 400},
      {"relative_target", "3.2", target("a"), 400},
      {"scheme_name_alone", "3.2", target("http"), 400},
      {"fragment", "3.2", target("/a#b"), 400},
      {"asterisk_with_options", "3.2.4", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", kValid},
      {"asterisk_with_get", "3.2.4", target("*"), 400},
      {"authority_form", "3.2.3", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"nul_in_the_target", "3.2", target("/a\0b"s), 400},
      {"delete_in_the_target", "3.2", target("/a\x7f"), 400},
      {"tab_in_the_target", "3.2", target("/a\tb"), 400},
      // --- field lines
      {"no_space_after_the_colon", "5", get("Host:a\r\n"), kValid},
      {"white_space_around_the_value", "5", get("Host: \t a \t\r\n"), kValid},
      {"empty_value", "5", field("X:"), kValid},
      {"obs_text_in_a_value", "RFC 9110, 5.5", field("X: \xff"), kValid},
      {"every_token_character", "RFC 9110, 5.6.2", field("!#$%&'*+-.^_`|~09azAZ: 1"), kValid},
      {"space_before_the_colon", "5.1", get("Host : a\r\n"), 400},
      {"tab_before_the_colon", "5.1", get("Host\t: a\r\n"), 400},
      {"folded_line", "5.2", field("X: 1\r\n 2"), 400},
      {"folded_with_tab", "5.2", field("X: 1\r\n\t2"), 400},
      {"space_before_the_first_field", "2.2", get(" Host: a\r\n"), 400},
      {"no_colon", "5", field("X"), 400},
      {"empty_name", "5.1", field(": 1"), 400},
      {"brackets_in_a_name", "5.1", field("X[]: 1"), 400},
      {"obs_text_in_a_name", "5.1", field("X\xff: 1"), 400},
      {"nul_in_a_name", "5.1", get("Host: a\r\nX\0: 1\r\n"s), 400},
      {"nul_in_a_value", "RFC 9110, 5.5", get("Host: a\r\nX: 1\0\r\n"s), 400},
      {"bell_in_a_value", "RFC 9110, 5.5", field("X: \x07"), 400},
      {"delete_in_a_value", "RFC 9110, 5.5", field("X: \x7f"), 400},
      {"vertical_tab_around_a_value", "RFC 9110, 5.5", field("X: \v1"), 400},
      {"bare_cr_in_a_value", "2.2", field("X: 1\rY: 2"), 400},
      {"bare_lf_in_a_value", "2.2", field("X: 1\nY: 2"), 400},
      {"bare_lf_ends_the_head", "2.2", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
      {"cr_ends_the_head", "2.2", "GET / HTTP/1.1\r\nHost: a\r\n\rX", kIncomplete},
      {"cr_before_a_name", "2.2", "GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n", 400},
      // --- Host
      {"no_host", "3.2", get(""), 400},
      {"no_host_in_1_0", "3.2", "GET / HTTP/1.0\r\n\r\n", kValid},
      {"two_hosts", "3.2", field("host: a"), 400},
      {"two_hosts_in_1_0", "3.2", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"empty_host", "3.2", host(""), kValid},
      {"host_with_port", "RFC 9110, 7.2", host("a:80"), kValid},
      {"host_with_empty_port", "RFC 3986, 3.2.3", host("a:"), kValid},
      {"host_is_an_ipv6_address", "RFC 3986, 3.2.2", host("[::1]:80"), kValid},
      {"host_with_a_list", "RFC 9110, 7.2", host("a, b"), 400},
      {"host_with_a_user", "RFC 9110, 7.2", host("user@a"), 400},
      {"host_with_a_path", "RFC 9110, 7.2", host("a/b"), 400},
      {"host_with_two_ports", "RFC 9110, 7.2", host("a:1:2"), 400},
      {"host_with_a_name_for_a_port", "RFC 9110, 7.2", host("a:http"), 400},
      {"host_with_an_open_bracket", "RFC 3986, 3.2.2", host("[::1"), 400},
      {"host_with_obs_text", "RFC 3986, 3.2.2", host("\xc3\xa4"), 400},
      // --- framing
      {"body_of_a_post", "6.3", length("5"), kValid},
      {"content_length_0_on_get", "6.2", field("Content-Length: 0"), kValid},
      {"body_on_get", "RFC 9110, 9.3.1", field("Content-Length: 1"), 400},
      {"body_on_head", "RFC 9110, 9.3.2", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
       400},
      {"chunked_get", "RFC 9110, 9.3.1", field("Transfer-Encoding: chunked"), 400},
      {"chunked_post", "6.1", post("Host: a\r\ntransfer-encoding: Chunked\r\n"), kValid},
      {"two_equal_lengths", "6.3", post("Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n"),
       400},
      {"list_of_lengths", "6.3", length("5, 5"), 400},
      {"negative_length", "RFC 9110, 8.6", length("-1"), 400},
      {"signed_length", "RFC 9110, 8.6", length("+1"), 400},
      {"hexadecimal_length", "RFC 9110, 8.6", length("0x1"), 400},
      {"length_with_a_fraction", "RFC 9110, 8.6", length("1.0"), 400},
      {"length_with_a_space", "RFC 9110, 8.6", length("1 1"), 400},
      {"empty_length", "RFC 9110, 8.6", length(""), 400},
      {"length_of_65_bits", "RFC 9110, 8.6", length("18446744073709551616"), 400},
      {"length_with_nbsp", "RFC 9110, 8.6", post("Host: a\r\nContent-Length: 1\xa0\r\n"), 400},
      {"chunked_and_length", "6.1",
       post("Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400},
      {"chunked_and_length_0", "6.1",
       post("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400},
      {"chunked_in_1_0", "6.1", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"chunked_twice", "6.1",
       post("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
      {"list_of_codings", "6.1", coding("gzip, chunked"), 400},
      {"chunked_not_last", "6.1", coding("chunked, gzip"), 400},
      {"identity", "7", coding("identity"), 400},
      {"coding_that_ends_in_chunked", "7", coding("xchunked"), 400},
      {"quoted_coding", "7", coding("\"chunked\""), 400},
      {"empty_coding", "6.1", coding(""), 400},
      {"underscore_for_hyphen", "RFC 3875, 4.1.18", field("Content_Length: 5"), 400},
      {"hyphens_for_hyphen", "RFC 3875, 4.1.18", field("Transfer--Encoding: x"), 400},
      {"no_hyphen", "RFC 3875, 4.1.18", field("transferencoding: x"), 400},
      {"mark_behind_the_name", "RFC 3875, 4.1.18", field("Content-Length~: 5"), 400},
      {"other_names_are_no_framing", "5.1",
       field("X-Content-Length: 5\r\nContent-Lengths: 5\r\nTransfer-Encoding2: x"), kValid},
      // --- limits (RFC 9110, section 15.5.15; RFC 6585, section 5)
      {"request_line_of_8192", "3", with_request_line(8192), kValid},
      {"request_line_of_8193", "3", with_request_line(8193), 414},
      {"request_line_of_8193_lf", "3", std::string(8193, 'a') + "\n", 414},
      {"request_line_of_8192_cr", "3", "GET " + std::string(8188, '/') + "\r", kIncomplete},
      {"request_line_without_end", "3", std::string(8193, 'a'), 414},
      {"empty_line_and_8193", "3", "\r\n" + with_request_line(8193), 414},
      {"head_of_16384", "5", with_head(16'384), kValid},
      {"head_of_16385", "5", with_head(16'385), 431},
      {"head_without_end", "5", "GET / HTTP/1.1\r\nX: " + std::string(16'384, 'a'), 431},
      {"a_single_field_of_12000", "5", get("Host: a\r\nX: " + std::string(12'000, 'a') + "\r\n"),
       kValid},
      {"fields_100", "5", get("Host: a\r\n" + many_fields(99)), kValid},
      {"fields_101", "5", get("Host: a\r\n" + many_fields(100)), 431},
  };
  return all;
}

TEST(RequestHead, HasTheVerdictOfRfc9112HoweverTheBytesAreCut) {
  for (const auto& [name, section, bytes, expected] : cases()) {
    SCOPED_TRACE(std::string(name) + ", section " + section);
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

TEST(RequestHead, EndsWhereItEndsAndNeitherEarlierNorLater) {
  for (const auto& [name, section, bytes, expected] : cases()) {
    if (expected != kValid) continue;
    for (std::size_t size = 0; size < bytes.size(); size += bytes.size() < 600 ? 1 : 97) {
      ASSERT_EQ(verdict(bytes.substr(0, size)), kIncomplete) << name << ", " << size;
    }
    ASSERT_EQ(verdict(bytes.substr(0, bytes.size() - 1)), kIncomplete) << name;
    for (const std::string& more :
         {""s, "x"s, "\r"s, "\n"s, "\0"s, bytes, std::string(20'000, 'x')}) {
      const auto parsed = parse_request_head(bytes + more);
      ASSERT_TRUE(std::holds_alternative<RequestHead>(parsed)) << name;
      EXPECT_EQ(std::get<RequestHead>(parsed).size, bytes.size()) << name;
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
