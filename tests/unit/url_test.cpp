#include "common/http/url.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "support/http_client.hpp"

namespace common::http {
namespace {

TEST(PercentDecode, LeavesAloneWhatIsNoEscape) {
  for (const std::string text :
       {"%", "%4", "%zz", "%4z", "%z4", "100%", "%%", "%-1", "% 1", "%+1"}) {
    EXPECT_EQ(percent_decode(text, false), text);
  }
  EXPECT_EQ(percent_decode("%%41", false), "%A");
}

TEST(PercentDecode, TakesPlusForASpaceInQueriesOnly) {
  EXPECT_EQ(percent_decode("a+b%2B", true), "a b+");
  EXPECT_EQ(percent_decode("a+b%2B", false), "a+b+");
}

TEST(PercentEncode, IsUndoneByDecodingAndEscapesAllButTheUnreserved) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    EXPECT_EQ(percent_encode(text), tests::percent_encode(text)) << byte;
    EXPECT_EQ(percent_decode(percent_encode(text), true), text) << byte;
    EXPECT_EQ(percent_decode(percent_encode(text), false), text) << byte;
  }
}

TEST(BaseUrl, TakesHostAndPort) {
  const auto url = parse_base_url("http://service-a.example_1.com:8080");
  EXPECT_EQ(url.host, "service-a.example_1.com");
  EXPECT_EQ(url.port, 8080);
  EXPECT_EQ(url.authority(), "service-a.example_1.com:8080");
}

TEST(BaseUrl, HasPort80WhereNoneIsGiven) {
  EXPECT_EQ(parse_base_url("http://a").port, 80);
  EXPECT_EQ(parse_base_url("http://a/").authority(), "a");
  EXPECT_EQ(parse_base_url("http://a:80").authority(), "a");
  EXPECT_EQ(parse_base_url("http://a:65535/").port, 65535);
}

TEST(BaseUrl, TakesAnIpv6AddressInBrackets) {
  EXPECT_EQ(parse_base_url("http://[::1]").host, "::1");
  EXPECT_EQ(parse_base_url("http://[::ffff:127.0.0.1]:81").port, 81);
  EXPECT_EQ(parse_base_url("http://[::1]:81").authority(), "[::1]:81");
  EXPECT_EQ(parse_base_url("http://[::1]:80").authority(), "[::1]");
}

TEST(BaseUrl, RefusesEverythingElse) {
  for (const std::string text : {"", "a", "a:80", "//a", "http:", "http://", "http:///",
                                 "https://a", "ftp://a", " http://a"}) {
    EXPECT_THROW(parse_base_url(text), std::invalid_argument) << text;
  }
  for (const std::string rest :
       {":80",      "a ",     "a/b",     "a//",         "a?b",          "a#b",
        "user@a",   "a:",     "a:/",     "a:0",         "a:65536",      "a:-1",
        "a:+1",     "a:8o",   "a:80:80", "a b",         "a,b",          "\xc3\xa4",
        "[::1",     "[]",     "[a]",     "[127.0.0.1]", "[::1]80",      "[::1]x8080",
        "[::1]/80", "[::1]:", "::1",     "[::1%]",      "[fe80::1%a b]"}) {
    EXPECT_THROW(parse_base_url("http://" + rest), std::invalid_argument) << rest;
  }
}

// RFC 6874.
TEST(BaseUrl, TakesAZoneAndSendsNone) {
  for (const std::string text : {"HTTP://[fe80::1%25eth0]:81", "http://[fe80::1%eth0]:81"}) {
    const auto url = parse_base_url(text);
    EXPECT_EQ(url.host, "fe80::1%eth0") << text;
    EXPECT_EQ(url.authority(), "[fe80::1]:81") << text;
    EXPECT_EQ(url.address(), "[fe80::1%eth0]:81") << text;
  }
}

}  // namespace
}  // namespace common::http
