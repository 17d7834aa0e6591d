#include "service-b/routes.hpp"

#include <array>
#include <cstdio>

#include "common/json.hpp"

namespace service_b {
namespace {

using Clock = std::chrono::steady_clock;

std::string milliseconds(Clock::duration duration) {
  std::array<char, 32> text{};
  const auto size = std::snprintf(text.data(), text.size(), "%.3f",
                                  std::chrono::duration<double, std::milli>(duration).count());
  return {text.data(), static_cast<std::size_t>(size)};
}

void answer_unavailable(httplib::Response& response, const Unavailable& unavailable,
                        common::http::Exchange& exchange) {
  exchange.outcome = common::http::Exchange::Outcome::kFailed;
  exchange.note("reason", std::string(unavailable.reason));
  exchange.note("error", unavailable.sentence);
  if (unavailable.upstream_status != 0) {
    exchange.note_number("upstream_status", std::to_string(unavailable.upstream_status));
  }
  response.set_header("Retry-After", "1");
  common::answer_json(response, 503,
                      {{"error", unavailable.sentence},
                       {"reason", unavailable.reason},
                       {"service_a", "unavailable"},
                       {"service_b", "ok"}});
}

}  // namespace

void add_routes(common::http::Server& server, EchoClient& service_a, common::Metrics& metrics) {
  metrics.expect_upstream(service_a.url().host, service_a.url().port, EchoClient::reasons());
  metrics.expect_request("/call-echo", 503);
  server.Get("/call-echo", [&service_a, &metrics](const httplib::Request& request,
                                                  httplib::Response& response,
                                                  common::http::Exchange& exchange) {
    std::string msg;
    if (!common::read_msg(request, response, msg)) return;
    if (!EchoClient::fits(msg)) {
      return common::answer_error(response, 414, "msg is too long to be sent on to service-a");
    }
    const auto start = Clock::now();
    const auto result = service_a.echo(msg, exchange.request_id, exchange.trace);
    const auto duration = Clock::now() - start;
    const auto* unavailable = std::get_if<Unavailable>(&result);

    metrics.upstream_call(unavailable ? unavailable->reason : std::string_view(), duration);
    exchange.note_number("upstream_ms", milliseconds(duration));
    response.set_header("Server-Timing", "service-a;dur=" + milliseconds(duration));
    if (unavailable) return answer_unavailable(response, *unavailable, exchange);
    common::answer_json(response, 200,
                        {{"service_a", std::get<nlohmann::json>(result)}, {"service_b", "ok"}});
  });
}

}  // namespace service_b
