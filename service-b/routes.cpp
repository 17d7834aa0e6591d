#include "service-b/routes.hpp"

#include <array>
#include <cstdio>

#include "common/json.hpp"

namespace service_b {
namespace {

using common::http::Clock;

std::string milliseconds(Clock::duration duration) {
  std::array<char, 32> text{};
  const auto size = std::snprintf(text.data(), text.size(), "%.3f",
                                  std::chrono::duration<double, std::milli>(duration).count());
  return {text.data(), static_cast<std::size_t>(size)};
}

void answer(common::http::PendingExchange& exchange, const EchoClient::Answer& answer,
            Clock::duration duration) {
  auto& response = exchange.response;
  exchange.note_number("upstream_ms", milliseconds(duration));
  response.set_header("Server-Timing", "service-a;dur=" + milliseconds(duration));
  const auto* unavailable = std::get_if<Unavailable>(&answer);
  if (unavailable == nullptr) {
    return common::answer_json(
        response, 200, {{"service_a", std::get<nlohmann::json>(answer)}, {"service_b", "ok"}});
  }
  exchange.outcome = common::http::Exchange::Outcome::kFailed;
  exchange.note("reason", std::string(unavailable->reason));
  exchange.note("error", unavailable->sentence);
  if (unavailable->upstream_status != 0) {
    exchange.note_number("upstream_status", std::to_string(unavailable->upstream_status));
  }
  response.set_header("Retry-After", "1");
  common::answer_json(response, 503,
                      {{"error", unavailable->sentence},
                       {"reason", unavailable->reason},
                       {"service_a", "unavailable"},
                       {"service_b", "ok"}});
}

}  // namespace

void add_routes(common::http::Server& server, EchoClient& service_a, common::Metrics& metrics) {
  metrics.expect_upstream(service_a.url().host, service_a.url().port, EchoClient::reasons());
  metrics.expect_request("/call-echo", 503);
  server.Get("/call-echo", [&service_a, &metrics](common::http::PendingExchange& exchange) {
    std::string msg;
    if (!common::read_msg(exchange.request, exchange.response, msg)) {
      return exchange.answer([] {});
    }
    if (!EchoClient::fits(msg)) {
      return exchange.answer([&] {
        common::answer_error(exchange.response, 414, "msg is too long to be sent on to service-a");
      });
    }
    service_a.echo(exchange.loop(), msg, exchange.request_id, exchange.trace,
                   [&exchange, &metrics, start = Clock::now()](const EchoClient::Answer& result) {
                     exchange.answer([&] {
                       const auto duration = Clock::now() - start;
                       const auto* unavailable = std::get_if<Unavailable>(&result);
                       metrics.upstream_call(unavailable ? unavailable->reason : "", duration);
                       answer(exchange, result, duration);
                     });
                   });
  });
}

}  // namespace service_b
