#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/control.hpp"
#include "support/eventually.hpp"
#include "support/faulty_upstream.hpp"
#include "support/http_client.hpp"
#include "support/log_lines.hpp"
#include "support/process.hpp"
#include "support/services.hpp"

// What the integration tests share. <regex> and <nlohmann/json.hpp> are left to the .cpp files:
// each costs seconds in every file that includes this one.

namespace tests {

using std::chrono::milliseconds;

// Nothing that works takes this long, however busy the machine is.
inline constexpr milliseconds kPatience{20'000};

Service start_a(std::vector<std::string> flags = {}, ProcessOptions options = {});
Service start_b(const std::string& service_a_url, std::vector<std::string> flags = {},
                ProcessOptions options = {});

// One of the two services, for what holds for both.
struct Tested {
  Service& service;
  bool is_a;

  std::uint16_t port() const { return service.port(); }
  // What has it echo `msg`, and the right answer to that.
  std::string echo(const std::string& msg) const;
  std::string echoed(const std::string& msg) const;
};

// Does `test` with Service A, then with Service B, each started with `flags`; behind Service B is
// a Service A without any. Afterwards it must answer, and must have written nothing to stderr.
void for_both(const std::vector<std::string>& flags, const std::function<void(Tested&)>& test,
              const ProcessOptions& options = {});

// For suites of tests that are done with each of the two:
// INSTANTIATE_TEST_SUITE_P(Of, Suite, testing::Values("service-a", "service-b"), service_name);
struct EachService : testing::TestWithParam<std::string> {
  const bool is_a = GetParam() == "service-a";
  const std::string binary = is_a ? kServiceA : kServiceB;
};
std::string service_name(const testing::TestParamInfo<std::string>& test);

// A run that ends by itself.
struct Outcome {
  std::optional<int> code;
  std::string out;
  std::string err;
};
Outcome run(const std::string& binary, const std::vector<std::string>& flags,
            ProcessOptions options = {});

// A port on 127.0.0.1 that nobody listens on, and nobody else can bind while this lives.
class ClosedPort {
 public:
  int fd() const { return socket_.fd.get(); }
  std::uint16_t port() const { return socket_.port; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port()); }

 private:
  BoundSocket socket_ = bind_socket(SOCK_STREAM);
};

// Listens, and accepts nobody.
struct Listener : ClosedPort {
  explicit Listener(int backlog = 16) { check(::listen(fd(), backlog), "listen"); }
};

// Sends `bytes`, unless there are none, and reads an answer. Without one the test fails, and the
// status is 0. `head`: the answer has no body.
Response ask(Connection& connection, std::string_view bytes, bool head = false);

// So many connections, on each of which `bytes` were sent.
std::vector<Connection> connect_and_send(std::uint16_t port, std::size_t count,
                                         std::string_view bytes);

// So many requests for `path`, a hundred at a time, and as many answers.
void ask_often(Connection& connection, const std::string& path, int count);

// That `response` is the last on its connection, and nothing follows it.
void expect_last(Connection& connection, const Response& response);

// What is promised of each JSON answer, whatever its status.
void expect_json(const Response& response, int status, const std::string& body);

// Whether all of `text` has that form: ECMAScript's regular expressions.
bool matches(const std::string& text, const std::string& form);

// What the first group of `pattern` matches in `text`.
std::set<std::string> all_of(const std::string& text, const std::string& pattern);

// The compact JSON string of valid UTF-8, raw.
std::string quoted(const std::string& text);

// A request for /health, and the path that has B call A.
inline const std::string kHealth = request_text("/health");
inline const std::string kCall = "/call-echo?msg=hello";

// The right answers to /health, to /echo and to /call-echo.
inline const std::string kOk = "{\"status\":\"ok\"}\n";
std::string echo_body(const std::string& msg);
std::string call_body(const std::string& msg);

std::string metrics_of(std::uint16_t port);
// A sample from the /metrics of that port; nullopt where there is none. `series` as written there.
std::optional<double> sample(std::uint16_t port, const std::string& series);

// The line that says where a service listens, and with which configuration.
LogLine start_line(Service& service);

// A file of the project; throws where there is none.
std::string read_file(const std::string& path);

// The parts between the separators.
std::vector<std::string> split(const std::string& text, char separator);

}  // namespace tests
