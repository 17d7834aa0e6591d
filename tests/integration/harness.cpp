#include "integration/harness.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>

namespace tests {

Service start_a(std::vector<std::string> flags, ProcessOptions options) {
  return Service(kServiceA, std::move(flags), std::move(options));
}

Service start_b(const std::string& service_a_url, std::vector<std::string> flags,
                ProcessOptions options) {
  flags.push_back("--service-a-url=" + service_a_url);
  return Service(kServiceB, std::move(flags), std::move(options));
}

std::string Tested::echo(const std::string& msg) const {
  return (is_a ? "/echo?msg=" : "/call-echo?msg=") + percent_encode(msg);
}

std::string Tested::echoed(const std::string& msg) const {
  return is_a ? echo_body(msg) : call_body(msg);
}

void for_both(const std::vector<std::string>& flags, const std::function<void(Tested&)>& test,
              const ProcessOptions& options) {
  for (const bool is_a : {true, false}) {
    SCOPED_TRACE(is_a ? "service-a" : "service-b");
    std::optional<Service> behind;
    auto all = flags;
    if (!is_a) {
      behind.emplace(kServiceA);
      // The budget is never what is tested here.
      all.insert(all.end(), {"--service-a-url=" + behind->url(), "--timeout=20s"});
    }
    Service service(is_a ? kServiceA : kServiceB, all, options);
    Tested tested{service, is_a};
    test(tested);
    EXPECT_TRUE(service.process().running());
    EXPECT_TRUE(eventually([&] { return get(service.port(), "/health").status == 200; }))
        << "it must have outlived its clients";
    EXPECT_EQ(service.process().err(), "");
  }
}

std::string service_name(const testing::TestParamInfo<std::string>& test) {
  return test.param == "service-a" ? "ServiceA" : "ServiceB";
}

Outcome run(const std::string& binary, const std::vector<std::string>& flags,
            ProcessOptions options) {
  std::vector<std::string> argv{binary};
  argv.insert(argv.end(), flags.begin(), flags.end());
  Process process(std::move(argv), std::move(options));
  Outcome result;
  result.code = process.wait(kPatience);
  result.out = process.out();
  result.err = process.err();
  return result;
}

Response ask(Connection& connection, std::string_view bytes, bool head) {
  connection.send(bytes);  // a server may refuse, and close, before it has read everything
  auto response = connection.read_response(kPatience, head);
  EXPECT_TRUE(response) << response.error << " for " << bytes.substr(0, 200);
  return response;
}

std::vector<Connection> connect_and_send(std::uint16_t port, std::size_t count,
                                         std::string_view bytes) {
  std::vector<Connection> connections;
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_TRUE(connections.emplace_back(port).send(bytes)) << i;
  }
  return connections;
}

void ask_often(Connection& connection, const std::string& path, int count) {
  std::string hundred;
  for (int i = 0; i < 100; ++i) hundred += request_text(path);
  for (int i = 0; i < count; ++i) {
    if (i % 100 == 0) {
      ASSERT_TRUE(connection.send(hundred));
    }
    ASSERT_TRUE(connection.read_response()) << i << ": " << connection.error();
  }
}

void expect_json(const Response& response, int status, const std::string& body) {
  EXPECT_EQ(response.status, status) << response.head << response.error;
  EXPECT_EQ(response.body, body);
  EXPECT_EQ(response.header("content-type"), "application/json");
  EXPECT_EQ(response.header("content-length"), std::to_string(body.size()));
  EXPECT_EQ(response.header("cache-control"), "no-store");
  EXPECT_TRUE(response.header("x-request-id"));
}

Headers lasting_headers(Headers headers) {
  std::erase_if(headers, [](const auto& header) {
    return header.first == "date" || header.first == "x-request-id" ||
           header.first == "server-timing";
  });
  std::sort(headers.begin(), headers.end());
  return headers;
}

bool matches(const std::string& text, const std::string& form) {
  return std::regex_match(text, std::regex(form));
}

std::set<std::string> all_of(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::set<std::string> result;
  for (std::sregex_iterator each(text.begin(), text.end(), regex), end; each != end; ++each) {
    result.insert((*each)[1]);
  }
  return result;
}

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

std::string echo_body(const std::string& msg) { return "{\"echo\":" + quoted(msg) + "}\n"; }

std::string call_body(const std::string& msg) {
  return "{\"service_a\":{\"echo\":" + quoted(msg) + "},\"service_b\":\"ok\"}\n";
}

std::string metrics_of(std::uint16_t port) { return get(port, "/metrics").body; }

std::optional<double> sample(std::uint16_t port, const std::string& series) {
  const auto metrics = "\n" + metrics_of(port);
  const auto at = metrics.find("\n" + series + " ");
  if (at == std::string::npos) return std::nullopt;
  return std::stod(metrics.substr(at + series.size() + 2));
}

LogLine start_line(Service& service) { return line_with(service.process(), "msg", "listening"); }

std::string read_file(const std::string& path) {
  std::ifstream file(std::string(PROJECT_FOLDER) + "/" + path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::vector<std::string> tricky_messages() {
  using namespace std::string_literals;
  return split(
      "| |hello|a b  "
      "c|a+b|&|#|%|%41|%2541|%zz|100%|=|a=b&msg=c;d|?|/|\\|\"|\"}\n{\"echo\":\"x\"}|'|"
      "\0|a\0b|\r\n|\r\nX-Injected: 1\r\n\r\n|\t\x01\x1f\x7f|null|{\"echo\":1}|[1,2]|"
      "<script>alert(1)</script>|../../etc/passwd|${HOME} `id` $(id)|"
      // UTF-8 at the edges of each length, a byte order mark, line separators, joined emoji
      "\xC3\xA9|\xE2\x82\xAC|\xF0\x9F\x98\x80|\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB|"
      "\xEF\xBB\xBF|\xE2\x80\xA8\xE2\x80\xA9|\xEF\xBF\xBD|\xEF\xBF\xBF|\xED\x9F\xBF\xEE\x80\x80|"
      "\xF4\x8F\xBF\xBF|\xC2\x80\xDF\xBF\xE0\xA0\x80\xF0\x90\x80\x80"s,
      '|');
}

std::string random_utf8(std::mt19937& random, int most) {
  const auto below = [&random](unsigned limit) { return static_cast<unsigned>(random() % limit); };
  std::string text;
  for (auto count = below(static_cast<unsigned>(most) + 1); count > 0; --count) {
    auto c = below(std::array{0x80U, 0x800U, 0x10000U, 0x110000U}.at(below(4)));
    if (c >= 0xD800 && c < 0xE000) c -= 0x800;  // no surrogates
    const auto add = [&text](unsigned byte) { text += static_cast<char>(byte); };
    if (c < 0x80) {
      add(c);
      continue;
    }
    const auto more = c < 0x800 ? 1U : c < 0x10000 ? 2U : 3U;  // bytes behind the first
    add((0xFF00U >> (more + 1) & 0xFF) | c >> 6 * more);
    for (auto left = more; left > 0; --left) add(0x80 | (c >> 6 * (left - 1) & 0x3F));
  }
  return text;
}

std::vector<std::string> invalid_messages() {
  return split(
      "%FF %FE %80 %BF a%80b hello%FF %C3%A9%C3 \xFF \xC3 "
      "%C0%80 %C1%BF %E0%80%80 %E0%9F%BF %F0%80%80%80 %F0%8F%BF%BF "  // overlong
      "%ED%A0%80 %ED%BF%BF %ED%A0%BD%ED%B8%80 "                       // surrogates
      "%C3 %E2%82 %F0%9F%98 %C3%28 %E2%28%A1 %E2%82%28 "              // cut, or broken off
      "%F0%28%8C%BC %F0%90%28%BC %F0%90%8C%28 "                       //
      "%F4%90%80%80 %F5%80%80%80 %F8%88%80%80%80",                    // above U+10FFFF
      ' ');
}

}  // namespace tests
