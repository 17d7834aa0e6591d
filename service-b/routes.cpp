#include "service-b/routes.hpp"

#include "common/json.hpp"

namespace service_b {
namespace {

using common::http::Clock;

void fill(common::http::PendingExchange& exchange, const EchoClient::Answer& answer,
          Clock::duration duration) {
  auto& response = exchange.response;
  const auto took = common::milliseconds(duration);
  exchange.note("upstream_ms", took, true);
  response.set_header("Server-Timing", "service-a;dur=" + took);
  const auto* unavailable = std::get_if<Unavailable>(&answer);
  if (unavailable == nullptr) {
    const auto& service_a = std::get<std::string>(answer);
    return common::answer_json(
        response, 200, common::json_object({{"service_a", service_a}, {"service_b", R"("ok")"}}));
  }
  exchange.outcome = common::http::Exchange::Outcome::kFailed;
  exchange.note("reason", std::string(unavailable->reason));
  exchange.note("error", unavailable->sentence);
  if (unavailable->upstream_status != 0) {
    exchange.note("upstream_status", std::to_string(unavailable->upstream_status), true);
  }
  response.set_header("Retry-After", "1");
  common::answer_json(response, 503,
                      common::json_object({{"error", common::to_json(unavailable->sentence)},
                                           {"reason", common::to_json(unavailable->reason)},
                                           {"service_a", R"("unavailable")"},
                                           {"service_b", R"("ok")"}}));
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
        common::http::answer_error(exchange.response, 414,
                                   "msg is too long to be sent on to service-a");
      });
    }
    service_a.echo(exchange.loop(), msg, exchange.request_id, exchange.trace,
                   [&exchange, &metrics, start = Clock::now()](const EchoClient::Answer& result) {
                     exchange.answer([&] {
                       const auto duration = Clock::now() - start;
                       const auto* unavailable = std::get_if<Unavailable>(&result);
                       metrics.upstream_call(unavailable ? unavailable->reason : "", duration);
                       fill(exchange, result, duration);
                     });
                   });
  });
}

}  // namespace service_b
