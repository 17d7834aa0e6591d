#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <regex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/eventually.hpp"
#include "support/faulty_upstream.hpp"
#include "support/http_client.hpp"
#include "support/process.hpp"
#include "support/services.hpp"

// What the integration tests share: starting the services, and reading their log back.

namespace tests {

using std::chrono::milliseconds;

// On top of what the contract allows: our own share of the measured time, on a machine that other
// tests use as well. A sanitizer makes everything slower.
inline const milliseconds kSlack{kSanitized ? 500 : 25};

// Nothing that works takes this long, however busy the machine is.
inline constexpr milliseconds kPatience{20'000};

// Whether `measure()` stays within `limit` plus kSlack in one of a few tries. A busy machine can
// make any single one late, but a deadline that is not kept is missed each time.
template <typename Measure>
bool within(milliseconds limit, Measure&& measure) {
  for (int i = 0; i < 6; ++i) {
    if (measure() <= limit + kSlack) return true;
  }
  return false;
}

inline Service start_a(std::vector<std::string> flags = {}, ProcessOptions options = {}) {
  return Service(kServiceA, std::move(flags), std::move(options));
}

inline Service start_b(const std::string& service_a_url, std::vector<std::string> flags = {},
                       ProcessOptions options = {}) {
  flags.push_back("--service-a-url=" + service_a_url);
  return Service(kServiceB, std::move(flags), std::move(options));
}

// A run that ends by itself.
struct Outcome {
  std::optional<int> code;
  std::string out;
  std::string err;
};

inline Outcome run(const std::string& binary, const std::vector<std::string>& flags,
                   ProcessOptions options = {}) {
  std::vector<std::string> argv{binary};
  argv.insert(argv.end(), flags.begin(), flags.end());
  Process process(std::move(argv), std::move(options));
  Outcome result;
  result.code = process.wait(kPatience);
  result.out = process.out();
  result.err = process.err();
  return result;
}

// A port on 127.0.0.1 that nobody listens on, and nobody else can bind while this lives.
class ClosedPort {
 public:
  ClosedPort() : fd_(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    check(::bind(fd_.get(), plain, sizeof address), "bind");
    socklen_t size = sizeof address;
    check(::getsockname(fd_.get(), plain, &size), "getsockname");
    port_ = ntohs(address.sin_port);
  }
  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  UniqueFd fd_;
  std::uint16_t port_ = 0;
};

// Below the range from which the kernel picks ports by itself, so that nobody takes it between a
// stop and a start again.
inline std::uint16_t lasting_port() {
  static std::mt19937 random{std::random_device{}()};
  return static_cast<std::uint16_t>(std::uniform_int_distribution(10'000, 30'000)(random));
}

// A service on a port on which it can be started a second time.
inline std::unique_ptr<Service> start_on_lasting_port(const std::string& binary,
                                                      std::vector<std::string> flags = {}) {
  flags.emplace_back();
  for (int tries = 0;; ++tries) {
    flags.back() = "--port=" + std::to_string(lasting_port());
    try {
      return std::make_unique<Service>(binary, flags);
    } catch (const std::runtime_error&) {
      if (tries == 10) throw;
    }
  }
}

// The fields of a log line; the values unquoted, numbers as they were written.
using LogLine = std::map<std::string, std::string>;

// Strict: key=value, one space between, each key once; a value has no quotes, or is a JSON string.
// Printable ASCII, nothing else.
inline std::optional<LogLine> parse_logfmt(std::string_view line) {
  static const std::regex field(
      R"re(([a-z][a-z0-9_]*)=([!#-<>-\[\]-~]+|"(?:[^"\\]|\\.)*")( |$))re");
  LogLine result;
  if (!std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; })) {
    return std::nullopt;
  }
  bool more = true;
  while (more) {
    std::cmatch match;
    if (!std::regex_search(line.data(), line.data() + line.size(), match, field,
                           std::regex_constants::match_continuous)) {
      return std::nullopt;
    }
    auto value = match.str(2);
    if (value.starts_with('"')) {
      const auto json = nlohmann::json::parse(value, nullptr, false);
      if (!json.is_string()) return std::nullopt;
      value = json;
    }
    if (!result.emplace(match.str(1), value).second) return std::nullopt;
    more = match.length(3) > 0;
    line.remove_prefix(static_cast<std::size_t>(match.length()));
  }
  if (!line.empty()) return std::nullopt;
  return result;
}

// One flat JSON object, each key once.
inline std::optional<LogLine> parse_json_line(std::string_view line) {
  std::size_t keys = 0;
  const auto count_keys = [&keys](int, nlohmann::json::parse_event_t event, nlohmann::json&) {
    keys += event == nlohmann::json::parse_event_t::key ? 1U : 0U;
    return true;
  };
  const auto json = nlohmann::json::parse(line, count_keys, false);
  if (!json.is_object() || json.size() != keys) return std::nullopt;
  LogLine result;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string() && !value.is_number()) return std::nullopt;
    result[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return result;
}

// All lines so far. Fails the test for each line that is not one of the log's.
inline std::vector<LogLine> log_lines(const Process& process) {
  std::vector<LogLine> result;
  for (const auto& line : process.lines()) {
    auto parsed = line.starts_with('{') ? parse_json_line(line) : parse_logfmt(line);
    if (parsed) {
      result.push_back(std::move(*parsed));
    } else {
      ADD_FAILURE() << "not a log line: " << line;
    }
  }
  return result;
}

// Those about requests.
inline std::vector<LogLine> request_lines(const Process& process) {
  auto lines = log_lines(process);
  std::erase_if(lines, [](const LogLine& line) { return !line.contains("method"); });
  return lines;
}

// The value, or "(none)", which no field ever has.
inline std::string value(const LogLine& line, const std::string& key) {
  const auto found = line.find(key);
  return found == line.end() ? "(none)" : found->second;
}

// The first line in which `key` is `wanted`, waiting for it; empty if it does not come.
inline LogLine line_with(Process& process, const std::string& key, const std::string& wanted,
                         milliseconds timeout = kPatience) {
  LogLine result;
  process.wait_for(
      [&](const std::string& out) {
        std::size_t start = 0;
        for (auto end = out.find('\n'); end != std::string::npos; end = out.find('\n', start)) {
          const auto line = std::string_view(out).substr(start, end - start);
          start = end + 1;
          if (line.find(wanted) == std::string_view::npos) continue;
          const auto parsed = line.starts_with('{') ? parse_json_line(line) : parse_logfmt(line);
          if (!parsed || value(*parsed, key) != wanted) continue;
          result = *parsed;
          return true;
        }
        return false;
      },
      timeout);
  return result;
}

// The line about the request that got `response`.
inline LogLine line_of(Process& process, const Response& response) {
  return line_with(process, "request_id", response.header("x-request-id").value_or("(none)"));
}

// What is promised of each JSON answer, whatever its status.
inline void expect_json(const Response& response, int status, const std::string& body) {
  EXPECT_EQ(response.status, status) << response.head;
  EXPECT_EQ(response.body, body);
  EXPECT_EQ(response.header("content-type"), "application/json");
  EXPECT_EQ(response.header("content-length"), std::to_string(body.size()));
  EXPECT_TRUE(response.header("x-request-id"));
}

inline void expect_json(const Result& result, int status, const std::string& body) {
  ASSERT_TRUE(result.response) << result.error;
  expect_json(*result.response, status, body);
}

// What of `response` does not depend on when it was made, for comparing two of them.
inline Headers lasting_headers(Headers headers) {
  std::erase_if(headers, [](const auto& header) {
    return header.first == "date" || header.first == "x-request-id" ||
           header.first == "server-timing";
  });
  std::sort(headers.begin(), headers.end());
  return headers;
}

inline std::string request_text(std::string_view target, std::string_view method = "GET",
                                std::string_view fields = "") {
  return std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: test\r\n" +
         std::string(fields) + "\r\n";
}

// The compact JSON string of valid UTF-8, raw.
inline std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

// A sample from a /metrics text; nullopt where there is none. `series` as it is written there.
inline std::optional<double> sample(const std::string& metrics, const std::string& series) {
  const auto at = ("\n" + metrics).find("\n" + series + " ");
  if (at == std::string::npos) return std::nullopt;
  return std::stod(metrics.substr(at + series.size() + 1));
}

inline std::string metrics_of(std::uint16_t port) {
  const auto result = get(port, "/metrics");
  return result.response ? result.response->body : "";
}

// Strings that have gone wrong somewhere before. All of them valid UTF-8.
inline std::vector<std::string> tricky_messages() {
  using namespace std::string_literals;
  return {"",
          " ",
          "hello",
          "a b  c",
          "a+b",
          "&",
          "#",
          "%",
          "%41",
          "%2541",
          "%zz",
          "100%",
          "=",
          "a=b&msg=c;d",
          "?",
          "/",
          "\\",
          "\"",
          "\"}\n{\"echo\":\"x\"}",
          "'",
          "\0"s,
          "a\0b"s,
          "\r\n",
          "\r\nX-Injected: 1\r\n\r\n",
          "\t\x01\x1f\x7f",
          "\xC3\xA9",
          "\xE2\x82\xAC",
          "\xF0\x9F\x98\x80",
          "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB",
          "\xEF\xBB\xBF"
          "bom",
          "\xE2\x80\xA8\xE2\x80\xA9",
          "\xEF\xBF\xBD",
          "\xEF\xBF\xBF",
          "\xED\x9F\xBF\xEE\x80\x80",
          "\xF4\x8F\xBF\xBF",
          "\xC2\x80\xDF\xBF\xE0\xA0\x80\xF0\x90\x80\x80",
          "null",
          "{\"echo\":1}",
          "[1,2]",
          "<script>alert(1)</script>",
          "../../etc/passwd",
          "${HOME} `id` $(id)"};
}

// Random valid UTF-8 of up to `most` code points, of all lengths of encoding.
inline std::string random_utf8(std::mt19937& random, int most) {
  const auto pick = [&random](unsigned low, unsigned high) {
    return std::uniform_int_distribution<unsigned>(low, high)(random);
  };
  const auto byte = [](unsigned bits) { return static_cast<char>(bits); };
  std::string text;
  for (auto count = pick(0, static_cast<unsigned>(most)); count > 0; --count) {
    switch (pick(0, 4)) {
      case 0: text += byte(pick(0, 0x7F)); break;
      case 1: text += byte(pick(0x20, 0x7E)); break;
      case 2: {
        const auto c = pick(0x80, 0x7FF);
        text += {byte(0xC0 | c >> 6), byte(0x80 | (c & 0x3F))};
        break;
      }
      case 3: {
        auto c = pick(0x800, 0xF7FF);
        if (c >= 0xD800) c += 0x800;  // no surrogates
        text += {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 0x3F)), byte(0x80 | (c & 0x3F))};
        break;
      }
      default: {
        const auto c = pick(0x10000, 0x10FFFF);
        text += {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 0x3F)), byte(0x80 | (c >> 6 & 0x3F)),
                 byte(0x80 | (c & 0x3F))};
      }
    }
  }
  return text;
}

// Percent-encoded queries whose msg is not UTF-8.
inline std::vector<std::string> invalid_messages() {
  return {"%FF",
          "%FE",
          "%80",
          "%BF",
          "a%80b",
          "%C0%80",        // overlong
          "%C1%BF",        // overlong
          "%E0%80%80",     // overlong
          "%E0%9F%BF",     // overlong
          "%F0%80%80%80",  // overlong
          "%F0%8F%BF%BF",  // overlong
          "%ED%A0%80",     // surrogates
          "%ED%BF%BF",     //
          "%ED%A0%BD%ED%B8%80",
          "%C3",              // truncated
          "%E2%82",           //
          "%F0%9F%98",        //
          "%C3%28",           //
          "%E2%28%A1",        //
          "%E2%82%28",        //
          "%F0%28%8C%BC",     //
          "%F0%90%28%BC",     //
          "%F0%90%8C%28",     //
          "%F4%90%80%80",     // above U+10FFFF
          "%F5%80%80%80",     //
          "%F8%88%80%80%80",  // five bytes
          "hello%FF",
          "%C3%A9%C3",
          "\xFF",  // raw
          "\xC3"};
}

}  // namespace tests
