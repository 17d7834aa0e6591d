// The whole path from bytes to answer: a server, and a client that sends any bytes, in pieces,
// closes its side and reads. Every answer is well-formed and has a status of the contract, and the
// server answers /health afterwards.

#include <algorithm>
#include <array>
#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>

#include "common/http/fiber.hpp"
#include "common/http/server.hpp"
#include "require.hpp"
#include "support/http_client.hpp"

namespace {

using namespace std::chrono_literals;

constexpr std::array kStatuses{200, 400, 404, 405, 408, 414, 431, 500, 503, 505};

std::uint16_t start_server() {
  common::http::ServerOptions options;
  options.linger_timeout = 200ms;
  auto* server = new common::http::Server(options);  // as long as the process
  server->Get("/health", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("{\"status\":\"ok\"}\n", "application/json");
  });
  server->Get("/echo", [](const httplib::Request& request, httplib::Response& response) {
    response.set_content("[" + std::to_string(request.get_param_value("msg").size()) + "]\n",
                         "application/json");
  });
  server->Get("/fail", [](const httplib::Request&, httplib::Response&) {
    throw std::runtime_error("as it must");
  });
  server->Get("/late", [](const httplib::Request&, httplib::Response& response) {
    common::http::sleep_for(1ms);
    response.set_content("{}\n", "application/json");
  });
  const int port = server->bind().main.front().port;
  server->start();
  return static_cast<std::uint16_t>(port);
}

/// All that the server answers to `bytes`, up to its close.
std::string talk(std::uint16_t port, std::string_view bytes, std::size_t piece) {
  tests::Connection connection(port);
  REQUIRE(connection.connected());
  while (!bytes.empty()) {
    const auto part = bytes.substr(0, piece);
    if (!connection.send(part)) break;  // refused and closed: the answer is there all the same
    bytes.remove_prefix(part.size());
  }
  connection.shutdown_write();
  REQUIRE(connection.closed_by_peer(10s));
  auto answers = connection.unread();
  connection.reset();  // so that no port is left waiting
  return answers;
}

/// Takes one answer off the front.
void check_answer(std::string_view& answers) {
  REQUIRE(answers.starts_with("HTTP/1.1 ") && answers.size() > 13);
  int status = 0;
  std::from_chars(answers.data() + 9, answers.data() + 12, status);
  REQUIRE(std::find(kStatuses.begin(), kStatuses.end(), status) != kStatuses.end());
  const auto end = answers.find("\r\n\r\n");
  REQUIRE(end != std::string_view::npos);
  const auto head = answers.substr(0, end + 2);
  answers.remove_prefix(end + 4);
  REQUIRE(head.find("\r\nX-Request-ID: ") != std::string_view::npos);
  REQUIRE(head.find("\r\nContent-Type: application/json\r\n") != std::string_view::npos);
  for (std::size_t at = 0; at < head.size(); ++at) {
    REQUIRE((head[at] >= 0x20 && head[at] < 0x7f) || head[at] == '\r' || head[at] == '\n');
  }
  constexpr std::string_view kLength = "\r\nContent-Length: ";
  const auto length_at = head.find(kLength);
  REQUIRE(length_at != std::string_view::npos);
  std::size_t length = 0;
  std::from_chars(head.data() + length_at + kLength.size(), head.data() + head.size(), length);
  // An answer to HEAD has no body: then the next answer follows, or the end. No body begins so.
  const bool has_body = !answers.empty() && !answers.starts_with("HTTP/1.1 ");
  REQUIRE(!has_body || answers.size() >= length);
  if (has_body) answers.remove_prefix(length);
  const bool closes = head.find("\r\nConnection: close\r\n") != std::string_view::npos;
  REQUIRE(!closes || answers.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::uint16_t port = start_server();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t piece = size % 4 == 0 ? std::max<std::size_t>(1, size / 5) : size + 1;
  const auto received = talk(port, bytes, piece);
  for (std::string_view answers = received; !answers.empty();) check_answer(answers);

  const auto health =
      talk(port, "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 1'000);
  REQUIRE(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("{\"status\":\"ok\"}\n"));
  return 0;
}
