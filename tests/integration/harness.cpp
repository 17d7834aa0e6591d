#include "integration/harness.hpp"

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

void expect_last(Connection& connection, const Response& response) {
  EXPECT_EQ(response.header("connection"), "close") << response.head;
  EXPECT_TRUE(connection.closed_by_peer());
  EXPECT_EQ(connection.unread(), "");
}

void expect_json(const Response& response, int status, const std::string& body) {
  EXPECT_EQ(response.status, status) << response.head << response.error;
  EXPECT_EQ(response.body, body);
  EXPECT_EQ(response.header("content-type"), "application/json");
  EXPECT_EQ(response.header("content-length"), std::to_string(body.size()));
  EXPECT_EQ(response.header("cache-control"), "no-store");
  EXPECT_TRUE(response.header("x-request-id"));
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

}  // namespace tests
