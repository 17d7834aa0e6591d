// Requests that two readers of one byte stream could understand differently: each has exactly one
// answer, an error, and the connection ends with it. What looks odd but is plain is served.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <regex>
#include <string>
#include <vector>

#include "integration/harness.hpp"
#include "support/http_client.hpp"
#include "support/process.hpp"

namespace tests {
namespace {

using namespace std::string_literals;

// A body that is itself a complete request. Its id would show in an answer to it.
const std::string kSmuggled =
    "GET /health HTTP/1.1\r\nHost: inner\r\nX-Request-ID: smuggled\r\n\r\n";

enum class Expectation {
  kServed,   // 200, and the connection goes on
  kRefused,  // one 4xx or 5xx, and the connection ends
};

struct Case {
  const char* name;
  const char* section;  // of RFC 9112, unless it says otherwise
  std::string line;     // the request line; "" for GET, POST, PUT, HEAD and OPTIONS of /health
  std::string fields;
  Expectation expectation = Expectation::kRefused;
};

std::ostream& operator<<(std::ostream& out, const Case& each) { return out << each.name; }

const std::string kHost = "Host: a\r\n";
const std::string kGet = "GET /health HTTP/1.1\r\n";
constexpr auto kServed = Expectation::kServed;

std::string field(const std::string& name, const std::string& value) {
  return kHost + name + ": " + value + "\r\n";
}
std::string length(const std::string& value) { return field("Content-Length", value); }
std::string coding(const std::string& value) { return field("Transfer-Encoding", value); }

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      // --- where a body ends: Content-Length
      {"body_of_given_length", "6.2", "", length(std::to_string(kSmuggled.size()))},
      {"two_different_lengths", "6.3", "", length("1000") + "Content-Length: 100\r\n"},
      {"two_equal_lengths", "6.3", "", length("1000") + "Content-Length: 1000\r\n"},
      {"lengths_0_and_5", "6.3", "", length("0") + "Content-Length: 5\r\n"},
      {"lengths_apart", "6.3", "", length("0") + "X: 1\r\nCONTENT-LENGTH: 0\r\n"},
      {"list_of_lengths", "6.3", "", length("1000,1000")},
      {"list_of_lengths_with_spaces", "6.3", "", length("0, 0")},
      {"two_numbers", "RFC 9110, 8.6", "", length("1000 1000")},
      {"decimal_point", "RFC 9110, 8.6", "", length("1000.1000")},
      {"negative", "RFC 9110, 8.6", "", length("-1234")},
      {"negative_and_huge", "RFC 9110, 8.6", "", length("-123456789123456789123456789")},
      {"plus_sign", "RFC 9110, 8.6", "", length("+0")},
      {"hexadecimal", "RFC 9110, 8.6", "", length("0x10")},
      {"exponent", "RFC 9110, 8.6", "", length("1e1")},
      {"two_to_the_64th", "RFC 9110, 8.6", "", length("18446744073709551616")},
      {"two_to_the_64th_and_more", "RFC 9110, 8.6", "", length("18446744073709551650")},
      {"two_to_the_32th", "RFC 9110, 8.6", "", length("4294967296")},
      {"word", "RFC 9110, 8.6", "", length("abc")},
      {"dollar_before_the_number", "RFC 9110, 8.6", "", length("$9000")},
      {"empty", "RFC 9110, 8.6", "", length("")},
      {"quoted", "RFC 9110, 8.6", "", length("\"0\"")},
      {"semicolon", "RFC 9110, 8.6", "", length("0;5")},
      {"control_before_the_number", "RFC 9110, 5.5", "",
       length("\x01"
              "1000")},
      {"control_behind_the_number", "RFC 9110, 5.5", "", length("1000\x11")},
      {"nul_behind_the_number", "RFC 9110, 5.5", "", length("0\0"s)},
      {"vertical_tab_before_the_number", "RFC 9110, 5.5", "", length("\v0")},
      {"form_feed_behind_the_number", "RFC 9110, 5.5", "", length("0\f")},
      {"no_break_space_behind_the_number", "RFC 9110, 8.6", "", length("1000\xa0")},
      {"digits_of_another_script", "RFC 9110, 8.6", "", length("\xd9\xa1")},
      // --- where a body ends: Transfer-Encoding
      {"chunked", "6.1", "", coding("chunked")},
      {"chunked_in_odd_case", "7", "", coding("cHuNkEd")},
      {"unknown_coding", "7", "", coding("xchunked")},
      {"identity", "7", "", coding("identity")},
      {"gzip", "7", "", coding("gzip")},
      {"no_coding", "6.1", "", coding("")},
      {"only_a_comma", "6.1", "", coding(",")},
      {"chunked_and_a_comma", "6.1", "", coding("chunked,")},
      {"chunked_behind_another", "6.1", "", coding("gzip, chunked")},
      {"chunked_before_another", "6.1", "", coding("chunked, identity")},
      {"chunked_in_a_list_twice", "6.1", "", coding("chunked,chunked")},
      {"chunked_in_two_fields", "6.1", "", coding("chunked") + "Transfer-Encoding: chunked\r\n"},
      {"chunked_and_identity_fields", "6.1", "",
       coding("chunked") + "Transfer-Encoding: identity\r\n"},
      {"identity_and_chunked_fields", "6.1", "",
       coding("identity") + "Transfer-Encoding: chunked\r\n"},
      {"quoted_chunked", "7", "", coding("\"chunked\"")},
      {"chunked_with_a_parameter", "7", "", coding("chunked;q=1")},
      {"control_before_chunked", "RFC 9110, 5.5", "",
       coding("\x01"
              "chunked")},
      {"control_behind_chunked", "RFC 9110, 5.5", "", coding("chunked\x11")},
      {"delete_behind_chunked", "RFC 9110, 5.5", "", coding("chunked\x7f")},
      {"nul_behind_chunked", "RFC 9110, 5.5", "", coding("chunked\0"s)},
      {"vertical_tab_before_chunked", "RFC 9110, 5.5", "", coding("\vchunked")},
      {"no_break_space_before_chunked", "7", "",
       coding("\xa0"
              "chunked")},
      {"no_break_space_behind_chunked", "7", "", coding("chunked\xa0")},
      {"high_byte_behind_chunked", "7", "", coding("chunked\x80")},
      {"chunked_with_a_kelvin_sign", "7", "",
       coding("chun\xe2\x84\xaa"
              "ed")},
      // --- both
      {"coding_and_length", "6.1", "", coding("chunked") + "Content-Length: 100\r\n"},
      {"length_and_coding", "6.1", "", length("5") + "TransFer-Encoding: chunked\r\n"},
      {"length_0_and_coding", "6.1", "", length("0") + "Transfer-Encoding: chunked\r\n"},
      {"gzip_and_length", "6.1", "", coding("gzip") + "Content-Length: 100\r\n"},
      {"bad_coding_and_bad_length", "6.1", "", coding("chunked\x80") + "Content-Length: $9\r\n"},
      {"odd_coding_and_length", "6.1", "",
       kHost + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n"},
      {"coding_in_1_0", "6.1", "POST /health HTTP/1.0\r\n", coding("chunked")},
      {"coding_and_keep_alive_in_1_0", "6.1", "GET /health HTTP/1.0\r\n",
       coding("chunked") + "Connection: keep-alive\r\n"},
      // --- names that some take for the two
      {"space_behind_length", "5.1", "", kHost + "Content-Length : 100\r\n"},
      {"spaces_behind_length", "5.1", "", kHost + "Content-Length   : 100\r\n"},
      {"space_behind_one_of_two_lengths", "5.1", "",
       kHost + "Content-Length : 100\r\nContent-Length: 1000\r\n"},
      {"space_before_length", "5.2", "", kHost + " Content-Length: 100\r\n"},
      {"space_before_length_as_first_field", "2.2", "", " Content-Length: 100\r\n" + kHost},
      {"control_before_length", "5.1", "",
       kHost + "\x01"
               "Content-Length: 1\r\n"},
      {"control_behind_length", "5.1", "", kHost + "Content-Length\x01: 1\r\n"},
      {"no_break_space_before_length", "5.1", "",
       kHost + "\xa0"
               "Content-Length: 100\r\n"},
      {"space_behind_coding", "5.1", "", kHost + "Transfer-Encoding : chunked\r\n"},
      {"tab_behind_coding", "5.1", "", kHost + "Transfer-Encoding\t: chunked\r\n"},
      {"spaces_before_coding", "5.2", "", kHost + "   Transfer-Encoding: chunked\r\n"},
      {"controls_before_coding", "5.1", "",
       kHost + "\x01\x01"
               "Transfer-Encoding: chunked\r\n"},
      {"high_byte_behind_coding", "5.1", "", kHost + "Transfer-Encoding\x88: chunked\r\n"},
      {"space_in_coding", "5.1", "", kHost + "Transfer- Encoding: chunked\r\n"},
      {"colon_before_coding", "5.1", "", kHost + ":Transfer-Encoding: chunked\r\n"},
      {"colon_in_the_name", "5.1", "", kHost + ":X:Transfer-Encoding:: chunked\r\n"},
      {"empty_name", "5.1", "", kHost + ": chunked\r\n"},
      {"name_of_white_space", "5.2", "", kHost + "  \t : chunked\r\n"},
      {"long_s_in_coding", "5.1", "",
       kHost + "Tran\xc5\xbf"
               "fer-Encoding: chunked\r\n"},
      {"dotless_i_in_coding", "5.1", "", kHost + "Transfer-Encod\xc4\xb1ng: chunked\r\n"},
      {"horizontal_bar_in_coding", "5.1", "",
       kHost + "Transfer\xe2\x80\x95"
               "Encoding: chunked\r\n"},
      {"underscore_in_coding", "RFC 3875, 4.1.18", "", field("Transfer_Encoding", "chunked")},
      {"underscore_in_length", "RFC 3875, 4.1.18", "", field("Content_Length", "1000")},
      {"underscores_in_coding", "RFC 3875, 4.1.18", "", field("Transfer___Encoding", "chunked")},
      {"hyphens_in_coding", "RFC 3875, 4.1.18", "", field("Transfer---Encoding", "chunked")},
      {"marks_in_coding", "RFC 3875, 4.1.18", "", field("Transfer-_.Encoding", "chunked")},
      {"dot_in_length", "RFC 3875, 4.1.18", "", field("Content.Length", "5")},
      {"no_mark_in_length", "RFC 3875, 4.1.18", "", field("contentlength", "5")},
      {"mark_behind_coding", "RFC 3875, 4.1.18", "", field("Transfer-Encoding-", "chunked")},
      // --- line ends
      {"bare_lf_lines", "2.2", "GET /health HTTP/1.1\n", "Host: a\n\n"},
      {"bare_lf_behind_a_field", "2.2", "", kHost + "X: 1\nContent-Length: 5\r\n"},
      {"bare_lf_and_space", "5.2", "", length("5") + "X: 1\n Transfer-Encoding: chunked\r\n"},
      {"bare_cr_in_a_field", "2.2", "", kHost + "X: 1\rContent-Length: 5\r\n"},
      {"bare_cr_behind_a_name", "2.2", "", kHost + "X\r: 1\r\n"},
      {"lf_behind_a_name", "2.2", "", kHost + "X\n: 1\r\n Transfer-Encoding: chunked\r\n"},
      {"cr_before_a_name", "2.2", "", kHost + "\rX: 1\r\n"},
      {"two_cr_behind_a_field", "2.2", "", kHost + "X: 1\r\r\n"},
      {"folded_field", "5.2", "", length("5") + "X: 1\r\n Transfer-Encoding: chunked\r\n"},
      {"folded_with_a_tab", "5.2", "", kHost + "X: 1\r\n\tTransfer-Encoding: chunked\r\n"},
      {"folded_length", "5.2", "", kHost + "Content-Length:\r\n 5\r\n"},
      {"lf_before_the_end", "2.2", "", kHost + "X: 1\r\n\n"},
      {"line_without_colon", "5", "", kHost + "Transfer-Encoding\r\n"},
      {"second_request_line_as_field", "5", "", kHost + "GET /health HTTP/1.1\r\n"},
      // --- NUL and other bytes in fields
      {"nul_in_a_name", "5.1", "", kHost + "X\0: 1\r\n"s},
      {"nul_before_a_name", "5.1", "", kHost + "\0X: 1\r\n"s},
      {"nul_in_a_value", "RFC 9110, 5.5", "", kHost + "X: 1\0Content-Length: 5\r\n"s},
      {"nul_before_a_value", "RFC 9110, 5.5", "", kHost + "X: \0001\r\n"s},
      {"nul_behind_a_value", "RFC 9110, 5.5", "", kHost + "X: 1\0\r\n"s},
      {"bell_in_a_value", "RFC 9110, 5.5", "", kHost + "X: 1\x07\r\n"},
      {"control_before_a_value", "RFC 9110, 5.5", "",
       kHost + "X: \x01"
               "1\r\n"},
      {"space_behind_any_name", "5.1", "", kHost + "X : 1\r\n"},
      {"control_behind_any_name", "5.1", "", kHost + "X\x01: 1\r\n"},
      {"brackets_in_a_name", "RFC 9110, 5.6.2", "", kHost + "X[]: 1\r\n"},
      // --- Host
      {"no_host", "3.2", "", ""},
      {"two_hosts", "3.2", "", kHost + "Host: b\r\n"},
      {"two_equal_hosts", "3.2", "", kHost + kHost},
      {"hosts_in_a_list", "3.2", "", "Host: a, b\r\n"},
      {"host_and_path", "3.2", "", "Host: a/b\r\n"},
      {"host_with_a_user", "3.2", "", "Host: x@a\r\n"},
      {"host_with_space", "3.2", "", "Host: a b\r\n"},
      {"space_behind_host", "5.1", "", "Host : a\r\n"},
      // --- request lines
      {"no_version", "3", "GET /health\r\n", kHost},
      {"no_version_but_space", "3", "GET /health \r\n", kHost},
      {"space_behind_the_version", "3", "GET /health HTTP/1.1 \r\n", kHost},
      {"two_versions", "3", "GET /health HTTP/1.1 HTTP/1.1\r\n", kHost},
      {"text_before_the_method", "3", "Extra lineGET /health HTTP/1.1\r\n", kHost},
      {"space_before_the_method", "3", " GET /health HTTP/1.1\r\n", kHost},
      {"two_empty_lines_before", "2.2", "\r\n\r\nGET /health HTTP/1.1\r\n", kHost},
      {"control_behind_the_method", "RFC 9110, 9.1", "GET\x01 /health HTTP/1.1\r\n", kHost},
      {"tab_behind_the_method", "3", "GET\t/health HTTP/1.1\r\n", kHost},
      {"tab_in_the_target", "3.2", "GET /health\tHTTP/1.1 HTTP/1.1\r\n", kHost},
      {"control_in_the_target", "3.2", "GET /health\x01 HTTP/1.1\r\n", kHost},
      {"nul_in_the_target", "3.2", "GET /health\0 HTTP/1.1\r\n"s, kHost},
      {"nul_before_the_target", "3.2", "GET \0/health HTTP/1.1\r\n"s, kHost},
      {"space_in_the_target", "3.2", "GET /health?a=b c HTTP/1.1\r\n", kHost},
      {"cr_in_the_target", "2.2", "GET /health\rHTTP/1.1 HTTP/1.1\r\n", kHost},
      {"lf_in_the_target", "2.2", "GET /health\nHTTP/1.1 HTTP/1.1\r\n", kHost},
      {"request_in_the_target", "3.2",
       "GET /health\tHTTP/1.1\r\nHost: a\r\n\r\nGET\t/metrics\t HTTP/1.1\r\n", kHost},
      {"fragment", "3.2", "GET /health#a HTTP/1.1\r\n", kHost},
      {"host_in_the_target_is_empty", "3.2.2", "GET http:///health HTTP/1.1\r\n", kHost},
      {"authority_form", "3.2.3", "CONNECT a:80 HTTP/1.1\r\n", kHost},
      {"version_9_9", "2.3", "GET /health HTTP/9.9\r\n", kHost},
      {"version_1_2", "2.3", "GET /health HTTP/1.2\r\n", kHost},
      {"version_0_9", "2.3", "GET /health HTTP/0.9\r\n", kHost},
      {"lower_case_version", "2.3", "GET /health http/1.1\r\n", kHost},
      // --- odd, but nobody can misunderstand it
      {"plain", "3", kGet, kHost, kServed},
      {"tab_for_a_space_and_odd_case", "5", kGet, "hoSt:\ta\r\nempty:\r\n", kServed},
      {"value_of_one_space", "5", kGet, kHost + "X: \r\n", kServed},
      {"expect", "RFC 9110, 10.1.1", kGet, field("Expect", "100-continue"), kServed},
      {"length_0", "6.2", kGet, length("0"), kServed},
      {"empty_line_before", "2.2", "\r\n" + kGet, kHost, kServed},
      {"absolute_form", "3.2.2", "GET http://b/health HTTP/1.1\r\n", kHost, kServed},
      {"escaped_path", "RFC 3986, 2.1", "GET /%68ealth HTTP/1.1\r\n", kHost, kServed},
      {"escaped_controls_in_the_query", "RFC 3986, 2.1", "GET /health?%00%0d%0a%09 HTTP/1.1\r\n",
       kHost, kServed},
      {"chunked_in_another_field", "5", kGet, field("X-Transfer-Encoding", "chunked"), kServed},
      {"te_field", "RFC 9110, 10.1.4", kGet, field("TE", "chunked"), kServed},
      {"content_encoding", "RFC 9110, 8.4", kGet, field("Content-Encoding", "chunked"), kServed},
      {"connection_names_a_length", "RFC 9110, 7.6.1", kGet, field("Connection", "Content-Length"),
       kServed},
  };
  return all;
}

class Smuggling : public testing::TestWithParam<Case> {
 protected:
  // One of each for all cases, and none of their answers may harm the next.
  static void SetUpTestSuite() {
    for (const auto& binary : {kServiceA, kServiceB}) {
      services_.push_back(std::make_unique<Service>(binary));
    }
  }
  static void TearDownTestSuite() { services_.clear(); }

  static std::vector<std::string> request_lines(const Case& each) {
    if (!each.line.empty()) return {each.line};
    std::vector<std::string> lines;
    for (const auto* method : {"GET", "POST", "PUT", "HEAD", "OPTIONS"}) {
      lines.push_back(method + " /health HTTP/1.1\r\n"s);
    }
    return lines;
  }

  static inline std::vector<std::unique_ptr<Service>> services_;
};

TEST_P(Smuggling, HasNoSecondAnswer) {
  const auto& each = GetParam();
  for (const auto& service : services_) {
    for (const auto& line : request_lines(each)) {
      Connection connection(service->port());
      ASSERT_TRUE(connection.send(line + each.fields + "\r\n" + kSmuggled)) << connection.error();
      const bool head = line.starts_with("HEAD");
      const auto answer = connection.read_response(kPatience, head);
      ASSERT_TRUE(answer) << line << connection.error();
      const auto context = line + each.fields + "\nsection " + each.section;
      if (each.expectation == Expectation::kServed) {
        EXPECT_EQ(answer->status, 200) << context;
        const auto next = connection.read_response(kPatience);
        ASSERT_TRUE(next) << context << connection.error();
        EXPECT_EQ(next->header("x-request-id"), "smuggled") << "what follows is a request here";
        continue;
      }
      EXPECT_GE(answer->status, 400) << context;
      EXPECT_NE(answer->header("x-request-id"), "smuggled") << context;
      EXPECT_EQ(answer->header("connection"), "close") << context;
      EXPECT_TRUE(connection.closed_by_peer(kPatience)) << context;
      // A refusal of a head that was never understood to be HEAD's may have its body.
      if (!head) {
        EXPECT_EQ(connection.unread(), "") << context;
      }
      EXPECT_EQ(connection.unread().find("HTTP/1.1"), std::string::npos) << context;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rfc9112, Smuggling, testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// RFC 9112, section 2: a request is a stream of bytes, and ends where its head says. Wherever it is
// cut, it is neither answered nor refused before it is complete.
TEST(Fragments, AreWaitedFor) {
  for (const auto& binary : {kServiceA, kServiceB}) {
    const Service service(binary);
    const std::string whole = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    std::vector<std::unique_ptr<Connection>> waiting;
    for (std::size_t size = 1; size < whole.size(); ++size) {
      waiting.push_back(std::make_unique<Connection>(service.port()));
      ASSERT_TRUE(waiting.back()->send(whole.substr(0, size)));
    }
    // All have been read once later requests are answered.
    for (int i = 0; i < 20; ++i) EXPECT_EQ(get(service.port(), "/health").status(), 200);
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      EXPECT_FALSE(waiting[i]->closed_by_peer(milliseconds(0))) << i;
      EXPECT_EQ(waiting[i]->unread(), "") << whole.substr(0, i + 1);
      ASSERT_TRUE(waiting[i]->send(whole.substr(i + 1)));
      const auto answer = waiting[i]->read_response(kPatience);
      ASSERT_TRUE(answer) << i << ": " << waiting[i]->error();
      EXPECT_EQ(answer->status, 200);
    }
  }
}

}  // namespace
}  // namespace tests
