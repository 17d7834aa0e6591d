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

struct Case {
  const char* name;
  const char* section;  // of RFC 9112, unless it says otherwise
  std::string bytes;
  const char* verdict;
};

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

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      // --- status line
      {"nothing", "4", "", "incomplete"},
      {"length", "6.3", sized("hello"), "200 reusable"},
      {"half_a_version", "4", "HTT", "incomplete"},
      {"another_protocol", "4", "SSH-2.0-x\r\n", "malformed"},
      {"another_first_byte", "4", "\x15", "malformed"},
      {"lower_case", "2.3", "http/1.1 200 OK\r\n\r\n", "malformed"},
      {"http_2", "2.3", "HTTP/2 200\r\n\r\n", "malformed"},
      {"empty_line_first", "4", "\r\n" + sized(""), "malformed"},
      {"no_reason", "4", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 reusable"},
      {"empty_reason", "4", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "200 reusable"},
      {"status_of_two_digits", "4", "HTTP/1.1 20 OK\r\n\r\n", "malformed"},
      {"status_of_four_digits", "4", "HTTP/1.1 2000 OK\r\n\r\n", "malformed"},
      {"status_of_letters", "4", "HTTP/1.1 abc OK\r\n\r\n", "malformed"},
      {"status_below_100", "RFC 9110, 15", "HTTP/1.1 099 x\r\n\r\n", "malformed"},
      {"two_spaces", "4", "HTTP/1.1  200 OK\r\n\r\n", "malformed"},
      {"bare_lf", "2.2", "HTTP/1.1 200 OK\n\n", "malformed"},
      {"other_statuses_need_only_a_head", "4", "HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n",
       "500 reusable"},
      {"status_above_599", "RFC 9110, 15", "HTTP/1.1 999 x\r\n\r\n", "999 reusable"},
      {"no_content", "6.3", "HTTP/1.1 204 No Content\r\n\r\n", "204 reusable"},
      {"status_without_end_of_head", "4", "HTTP/1.1 500 x\r\n", "incomplete"},
      // --- field lines
      {"space_before_the_colon", "5.1", ok("Content-Length : 0\r\n"), "malformed"},
      {"folded", "5.2", ok("X: 1\r\n 2\r\n"), "malformed"},
      {"no_colon", "5", ok("X\r\n"), "malformed"},
      {"nul", "RFC 9110, 5.5", ok("X: \0\r\n"s), "malformed"},
      {"bare_cr", "2.2", ok("X: 1\rY: 2\r\n"), "malformed"},
      {"head_of_16384", "5", with_head(16'384), "200 reusable"},
      {"head_of_16385", "5", with_head(16'385), "malformed"},
      {"head_without_end", "5", "HTTP/1.1 200 OK\r\nX: " + std::string(16'400, 'a'), "malformed"},
      {"status_line_without_end", "4", "HTTP/1.1 200 " + std::string(16'400, 'a'), "malformed"},
      // --- interim answers
      {"interim_alone", "RFC 9110, 15.2", "HTTP/1.1 100 Continue\r\n\r\n", "incomplete"},
      {"interim_and_answer", "RFC 9110, 15.2",
       "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nX: 1\r\n\r\n" + sized("a"), "200 reusable"},
      {"interim_length_does_not_count", "RFC 9110, 15.2",
       "HTTP/1.1 103 x\r\nContent-Length: 7\r\nConnection: close\r\n\r\n" + sized("a"),
       "200 reusable"},
      {"switching_protocols", "RFC 9110, 15.2.2", "HTTP/1.1 101 x\r\n\r\n", "101 reusable"},
      {"rubbish_after_interim", "4", "HTTP/1.1 100 x\r\n\r\nrubbish\r\n", "malformed"},
      {"endless_interim", "4",
       [] {
         std::string bytes;
         while (bytes.size() <= 16'384) bytes += "HTTP/1.1 100 Continue\r\n\r\n";
         return bytes;
       }(),
       "malformed"},
      // --- lengths
      {"equal_lengths", "6.3", ok("Content-Length: 1\r\nContent-Length: 1\r\n", "a"),
       "200 reusable"},
      {"different_lengths", "6.3", ok("Content-Length: 1\r\nContent-Length: 2\r\n", "aa"),
       "malformed"},
      {"list_of_lengths", "6.3", ok("Content-Length: 1, 1\r\n", "a"), "malformed"},
      {"negative_length", "6.3", ok("Content-Length: -1\r\n"), "malformed"},
      {"signed_length", "6.3", ok("Content-Length: +1\r\n", "a"), "malformed"},
      {"empty_length", "6.3", ok("Content-Length:\r\n"), "malformed"},
      {"length_of_65_bits", "6.3", ok("Content-Length: 18446744073709551616\r\n"), "malformed"},
      // --- chunked
      {"chunks", "7.1", chunked("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), "200 reusable"},
      {"no_chunks", "7.1", chunked("0\r\n\r\n"), "200 reusable"},
      {"last_chunk_of_many_zeros", "7.1", chunked("0000\r\n\r\n"), "200 reusable"},
      {"upper_case_size", "7.1", chunked("A\r\n0123456789\r\n0\r\n\r\n"), "200 reusable"},
      {"extension", "7.1.1", chunked("5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n"), "200 reusable"},
      {"white_space_before_an_extension", "7.1.1", chunked("5 ;a\r\nhello\r\n0\r\n\r\n"),
       "200 reusable"},
      {"trailers", "7.1.2", chunked("0\r\nX: 1\r\nContent-Length: 9\r\n\r\n"), "200 reusable"},
      {"malformed_trailer", "7.1.2", chunked("0\r\nrubbish\r\n\r\n"), "malformed"},
      {"bare_lf_trailer", "7.1.2", chunked("0\r\n\n"), "malformed"},
      {"trailers_without_end", "7.1.2", chunked("0\r\nX: " + std::string(16'400, 'a')),
       "malformed"},
      {"no_last_chunk", "7.1", chunked("5\r\nhello\r\n"), "incomplete"},
      {"no_end_of_trailers", "7.1", chunked("0\r\n"), "incomplete"},
      {"half_a_chunk", "7.1", chunked("5\r\nhel"), "incomplete"},
      {"chunk_without_crlf", "7.1", chunked("5\r\nhelloX"), "malformed"},
      {"chunk_with_bare_cr", "7.1", chunked("5\r\nhello\rX"), "malformed"},
      {"size_not_hexadecimal", "7.1", chunked("g\r\n"), "malformed"},
      {"size_with_0x", "7.1", chunked("0x5\r\nhello\r\n"), "malformed"},
      {"negative_size", "7.1", chunked("-5\r\nhello\r\n"), "malformed"},
      {"white_space_before_the_size", "7.1", chunked(" 5\r\nhello\r\n"), "malformed"},
      {"empty_size", "7.1", chunked("\r\n"), "malformed"},
      {"size_of_65_bits", "7.1", chunked("10000000000000000\r\n"), "malformed"},
      {"bare_lf_after_the_size", "7.1", chunked("5\nhello\r\n"), "malformed"},
      {"size_line_without_end", "7.1", chunked("5;" + std::string(16'400, 'a')), "malformed"},
      {"chunked_and_length", "6.3",
       ok("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "0\r\n\r\n"), "malformed"},
      {"gzip", "6.1", ok("Transfer-Encoding: gzip, chunked\r\n"), "malformed"},
      {"chunked_twice", "6.1", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
       "malformed"},
      // --- whether the connection may go on
      {"close", "9.6", ok("Content-Length: 0\r\nConnection: close\r\n"), "200"},
      {"close_in_a_list", "9.6", ok("Content-Length: 0\r\nConnection: x, CLOSE\r\n"), "200"},
      {"http_1_0", "9.3", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200"},
      {"http_1_0_keep_alive", "9.3",
       "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", "200 reusable"},
      {"http_1_0_chunked", "6.1",
       "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       "200"},
  };
  return all;
}

TEST(ResponseHead, GivesTheVerdictOfRfc9112HoweverTheBytesAreCut) {
  for (const auto& each : cases()) {
    for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{100'000}}) {
      if (piece == 1 && each.bytes.size() > 1'000) continue;
      EXPECT_EQ(read(each.bytes, piece).text, each.verdict)
          << each.name << " (section " << each.section << "), " << piece << " bytes at a time";
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
