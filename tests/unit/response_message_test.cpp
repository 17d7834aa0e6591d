#include "common/http/response_message.hpp"

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <variant>
#include <vector>

namespace common::http {
namespace {

using namespace std::string_literals;

std::string verdict(const ResponseParser::Verdict& parsed) {
  if (const auto* message = std::get_if<ResponseMessage>(&parsed)) {
    return std::to_string(message->status) + (message->reusable ? " reusable" : "");
  }
  if (std::holds_alternative<IncompleteResponse>(parsed)) return "incomplete";
  return "malformed";
}

std::string verdict(std::string_view bytes, bool ended = false) {
  return verdict(ResponseParser().parse(bytes, ended));
}

std::string body_of(std::string_view bytes, bool ended = false) {
  const auto parsed = ResponseParser().parse(bytes, ended);
  const auto* message = std::get_if<ResponseMessage>(&parsed);
  return message ? message->body : "no answer: " + verdict(bytes, ended);
}

struct Case {
  const char* name;
  const char* section;  // of RFC 9112, unless it says otherwise
  std::string bytes;
  const char* open;   // while the peer may send more
  const char* ended;  // once it has closed
};

std::ostream& operator<<(std::ostream& out, const Case& each) { return out << each.name; }

std::string ok(const std::string& fields, const std::string& rest = "") {
  return "HTTP/1.1 200 OK\r\n" + fields + "\r\n" + rest;
}
std::string sized(const std::string& body) {
  return ok("Content-Length: " + std::to_string(body.size()) + "\r\n", body);
}
std::string chunked(const std::string& rest) { return ok("Transfer-Encoding: chunked\r\n", rest); }
std::string chunk(const std::string& data) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx", data.size());
  return size + "\r\n"s + data + "\r\n";
}
std::string with_head(std::size_t size) {
  const auto around = ok("Content-Length: 0\r\nX: \r\n").size();
  return ok("Content-Length: 0\r\nX: " + std::string(size - around, 'a') + "\r\n");
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      // --- status line
      {"nothing", "4", "", "incomplete", "incomplete"},
      {"length", "6.3", sized("hello"), "200 reusable", "200"},
      {"half_a_version", "4", "HTT", "incomplete", "incomplete"},
      {"another_protocol", "4", "SSH-2.0-x\r\n", "malformed", "malformed"},
      {"another_first_byte", "4", "\x15", "malformed", "malformed"},
      {"lower_case", "2.3", "http/1.1 200 OK\r\n\r\n", "malformed", "malformed"},
      {"http_2", "2.3", "HTTP/2 200\r\n\r\n", "malformed", "malformed"},
      {"empty_line_first", "4", "\r\n" + sized(""), "malformed", "malformed"},
      {"no_reason", "4", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 reusable", "200"},
      {"empty_reason", "4", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "200 reusable", "200"},
      {"status_of_two_digits", "4", "HTTP/1.1 20 OK\r\n\r\n", "malformed", "malformed"},
      {"status_of_four_digits", "4", "HTTP/1.1 2000 OK\r\n\r\n", "malformed", "malformed"},
      {"status_of_letters", "4", "HTTP/1.1 abc OK\r\n\r\n", "malformed", "malformed"},
      {"status_below_100", "RFC 9110, 15", "HTTP/1.1 099 x\r\n\r\n", "malformed", "malformed"},
      {"two_spaces", "4", "HTTP/1.1  200 OK\r\n\r\n", "malformed", "malformed"},
      {"bare_lf", "2.2", "HTTP/1.1 200 OK\n\n", "malformed", "malformed"},
      {"other_statuses_need_only_a_head", "4", "HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n", "500",
       "500"},
      {"status_above_599", "RFC 9110, 15", "HTTP/1.1 999 x\r\n\r\n", "999", "999"},
      {"no_content", "6.3", "HTTP/1.1 204 No Content\r\n\r\n", "204", "204"},
      {"status_without_end_of_head", "4", "HTTP/1.1 500 x\r\n", "incomplete", "incomplete"},
      // --- field lines
      {"space_before_the_colon", "5.1", ok("Content-Length : 0\r\n"), "malformed", "malformed"},
      {"folded", "5.2", ok("X: 1\r\n 2\r\n"), "malformed", "malformed"},
      {"no_colon", "5", ok("X\r\n"), "malformed", "malformed"},
      {"nul", "RFC 9110, 5.5", ok("X: \0\r\n"s), "malformed", "malformed"},
      {"bare_cr", "2.2", ok("X: 1\rY: 2\r\n"), "malformed", "malformed"},
      {"head_of_16384", "5", with_head(16'384), "200 reusable", "200"},
      {"head_of_16385", "5", with_head(16'385), "malformed", "malformed"},
      {"head_without_end", "5", "HTTP/1.1 200 OK\r\nX: " + std::string(16'400, 'a'), "malformed",
       "malformed"},
      {"status_line_without_end", "4", "HTTP/1.1 200 " + std::string(16'400, 'a'), "malformed",
       "malformed"},
      // --- interim answers
      {"interim_alone", "RFC 9110, 15.2", "HTTP/1.1 100 Continue\r\n\r\n", "incomplete",
       "incomplete"},
      {"interim_and_answer", "RFC 9110, 15.2",
       "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nX: 1\r\n\r\n" + sized("a"), "200 reusable",
       "200"},
      {"interim_length_does_not_count", "RFC 9110, 15.2",
       "HTTP/1.1 103 x\r\nContent-Length: 7\r\nConnection: close\r\n\r\n" + sized("a"),
       "200 reusable", "200"},
      {"switching_protocols", "RFC 9110, 15.2.2", "HTTP/1.1 101 x\r\n\r\n", "101", "101"},
      {"rubbish_after_interim", "4", "HTTP/1.1 100 x\r\n\r\nrubbish\r\n", "malformed", "malformed"},
      {"endless_interim", "4",
       [] {
         std::string bytes;
         while (bytes.size() <= 16'384) bytes += "HTTP/1.1 100 Continue\r\n\r\n";
         return bytes;
       }(),
       "malformed", "malformed"},
      // --- lengths
      {"body_not_there", "6.3", ok("Content-Length: 5\r\n", "hell"), "incomplete", "incomplete"},
      {"body_too_long", "9.2", sized("hello") + "x", "200", "200"},
      {"equal_lengths", "6.3", ok("Content-Length: 1\r\nContent-Length: 1\r\n", "a"),
       "200 reusable", "200"},
      {"different_lengths", "6.3", ok("Content-Length: 1\r\nContent-Length: 2\r\n", "aa"),
       "malformed", "malformed"},
      {"list_of_lengths", "6.3", ok("Content-Length: 1, 1\r\n", "a"), "malformed", "malformed"},
      {"negative_length", "6.3", ok("Content-Length: -1\r\n"), "malformed", "malformed"},
      {"signed_length", "6.3", ok("Content-Length: +1\r\n", "a"), "malformed", "malformed"},
      {"empty_length", "6.3", ok("Content-Length:\r\n"), "malformed", "malformed"},
      {"length_of_65_bits", "6.3", ok("Content-Length: 18446744073709551616\r\n"), "malformed",
       "malformed"},
      {"body_of_65536", "6.3", sized(std::string(65'536, 'a')), "200 reusable", "200"},
      {"body_of_65537", "6.3", sized(std::string(65'537, 'a')), "malformed", "malformed"},
      {"too_large_is_told_by_the_head", "6.3", ok("Content-Length: 65537\r\n"), "malformed",
       "malformed"},
      {"no_length", "6.3", ok("", "hello"), "incomplete", "200"},
      {"no_length_and_no_body", "6.3", ok(""), "incomplete", "200"},
      {"no_length_65536", "6.3", ok("", std::string(65'536, 'a')), "incomplete", "200"},
      {"no_length_65537", "6.3", ok("", std::string(65'537, 'a')), "malformed", "malformed"},
      // --- chunked
      {"chunks", "7.1", chunked(chunk("hel") + chunk("lo") + "0\r\n\r\n"), "200 reusable", "200"},
      {"no_chunks", "7.1", chunked("0\r\n\r\n"), "200 reusable", "200"},
      {"last_chunk_of_many_zeros", "7.1", chunked("0000\r\n\r\n"), "200 reusable", "200"},
      {"upper_case_size", "7.1", chunked("A\r\n0123456789\r\n0\r\n\r\n"), "200 reusable", "200"},
      {"extension", "7.1.1", chunked("5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n"), "200 reusable", "200"},
      {"white_space_before_an_extension", "7.1.1", chunked("5 ;a\r\nhello\r\n0\r\n\r\n"),
       "200 reusable", "200"},
      {"trailers", "7.1.2", chunked("0\r\nX: 1\r\nContent-Length: 9\r\n\r\n"), "200 reusable",
       "200"},
      {"malformed_trailer", "7.1.2", chunked("0\r\nrubbish\r\n\r\n"), "malformed", "malformed"},
      {"bare_lf_trailer", "7.1.2", chunked("0\r\n\n"), "malformed", "malformed"},
      {"trailers_without_end", "7.1.2", chunked("0\r\nX: " + std::string(16'400, 'a')), "malformed",
       "malformed"},
      {"no_last_chunk", "7.1", chunked(chunk("hello")), "incomplete", "incomplete"},
      {"no_end_of_trailers", "7.1", chunked("0\r\n"), "incomplete", "incomplete"},
      {"half_a_chunk", "7.1", chunked("5\r\nhel"), "incomplete", "incomplete"},
      {"chunk_without_crlf", "7.1", chunked("5\r\nhelloX"), "malformed", "malformed"},
      {"chunk_with_bare_cr", "7.1", chunked("5\r\nhello\rX"), "malformed", "malformed"},
      {"size_not_hexadecimal", "7.1", chunked("g\r\n"), "malformed", "malformed"},
      {"size_with_0x", "7.1", chunked("0x5\r\nhello\r\n"), "malformed", "malformed"},
      {"negative_size", "7.1", chunked("-5\r\nhello\r\n"), "malformed", "malformed"},
      {"white_space_before_the_size", "7.1", chunked(" 5\r\nhello\r\n"), "malformed", "malformed"},
      {"empty_size", "7.1", chunked("\r\n"), "malformed", "malformed"},
      {"size_of_65_bits", "7.1", chunked("10000000000000000\r\n"), "malformed", "malformed"},
      {"bare_lf_after_the_size", "7.1", chunked("5\nhello\r\n"), "malformed", "malformed"},
      {"size_line_without_end", "7.1", chunked("5;" + std::string(16'400, 'a')), "malformed",
       "malformed"},
      {"chunks_of_65536", "7.1",
       chunked(chunk(std::string(65'535, 'a')) + chunk("a") + "0\r\n\r\n"), "200 reusable", "200"},
      {"chunks_of_65537", "7.1", chunked(chunk(std::string(65'536, 'a')) + "1\r\n"), "malformed",
       "malformed"},
      {"bytes_after_the_last_chunk", "9.2", chunked("0\r\n\r\nHTTP/1.1"), "200", "200"},
      {"chunked_and_length", "6.3",
       ok("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "0\r\n\r\n"), "malformed",
       "malformed"},
      {"gzip", "6.1", ok("Transfer-Encoding: gzip, chunked\r\n"), "malformed", "malformed"},
      {"chunked_twice", "6.1", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
       "malformed", "malformed"},
      // --- whether the connection may go on
      {"close", "9.6", ok("Content-Length: 0\r\nConnection: close\r\n"), "200", "200"},
      {"close_in_a_list", "9.6", ok("Content-Length: 0\r\nConnection: x, CLOSE\r\n"), "200", "200"},
      {"http_1_0", "9.3", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200", "200"},
      {"http_1_0_keep_alive", "9.3",
       "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", "200 reusable",
       "200"},
      {"http_1_0_chunked", "6.1",
       "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       "200", "200"},
  };
  return all;
}

class ResponseTable : public testing::TestWithParam<Case> {};

TEST_P(ResponseTable, GivesTheVerdictAndNoOtherOneBefore) {
  const auto& each = GetParam();
  EXPECT_EQ(verdict(each.bytes), each.open) << "section " << each.section;
  EXPECT_EQ(verdict(each.bytes, true), each.ended) << "section " << each.section;
  const std::string_view bytes = each.bytes;
  for (std::size_t size = 0; size < bytes.size(); size += bytes.size() < 600 ? 1 : 211) {
    const auto early = verdict(bytes.substr(0, size));
    if (early == "incomplete") continue;
    // Only bytes behind a complete answer, or more of a refused one, can follow.
    const std::string late = each.open;
    EXPECT_EQ(early.substr(0, 3), late.substr(0, 3)) << size << " of " << bytes.size();
  }
}

TEST_P(ResponseTable, GivesTheSameVerdictForBytesThatComeOneByOne) {
  const std::string_view bytes = GetParam().bytes;
  ResponseParser parser;
  std::size_t size = 0;
  auto parsed = parser.parse({}, false);
  while (size < bytes.size() && std::holds_alternative<IncompleteResponse>(parsed)) {
    parsed = parser.parse(bytes.substr(size++, 1), false);
  }
  EXPECT_EQ(verdict(parsed).substr(0, 3), verdict(bytes).substr(0, 3))
      << size << " of " << bytes.size();
  if (const auto* message = std::get_if<ResponseMessage>(&parsed)) {
    EXPECT_EQ(message->body, body_of(bytes));
  }
}

INSTANTIATE_TEST_SUITE_P(Rfc9112, ResponseTable, testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ResponseMessage, HandsOutTheBody) {
  EXPECT_EQ(body_of(sized("hello")), "hello");
  EXPECT_EQ(body_of(sized("he\0lo"s)), "he\0lo"s);
  EXPECT_EQ(body_of(sized("hello") + "x"), "hello");
  EXPECT_EQ(body_of(ok("", "hello"), true), "hello");
  EXPECT_EQ(body_of(chunked("3;x\r\nhel\r\n2\r\nlo\r\n0\r\nX: 1\r\n\r\n")), "hello");
  EXPECT_EQ(body_of(chunked("4\r\n\r\n\r\n\r\n0\r\n\r\n")), "\r\n\r\n");
  EXPECT_EQ(body_of("HTTP/1.1 404 x\r\nContent-Length: 1\r\n\r\na"), "");
}

TEST(ResponseMessage, SaysWhatIsWrong) {
  const auto error = [](const std::string& bytes) {
    return std::string(std::get<MalformedResponse>(ResponseParser().parse(bytes, false)).error);
  };
  EXPECT_EQ(error("nonsense"), "is not HTTP/1");
  EXPECT_EQ(error(sized(std::string(65'537, 'a'))), "is larger than 64 KiB");
  EXPECT_EQ(error(with_head(16'385)), "has a head larger than 16 KiB");
}

}  // namespace
}  // namespace common::http
