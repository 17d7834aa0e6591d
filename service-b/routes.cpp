#include "service-b/routes.hpp"

#include "common/json.hpp"

namespace service_b {
namespace {

using common::http::Clock;

void fill(common::http::PendingExchange& exchange, EchoClient::Answer&& answer,
          Clock::duration duration) {
  auto& response = exchange.response;
  const auto took = common::milliseconds(duration);
  exchange.note("upstream_ms", took, true);
  response.set_header("Server-Timing", "service-a;dur=" + took);
  nlohmann::json body;
  body["service_b"] = "ok";
  const auto* unavailable = std::get_if<Unavailable>(&answer);
  if (unavailable == nullptr) {
    body["service_a"] = std::move(std::get<nlohmann::json>(answer));
    return common::answer_json(response, 200, body);
  }
  exchange.outcome = common::http::Exchange::Outcome::kFailed;
  exchange.note("reason", std::string(unavailable->reason));
  exchange.note("error", unavailable->sentence);
  if (unavailable->upstream_status != 0) {
    exchange.note("upstream_status", std::to_string(unavailable->upstream_status), true);
  }
  response.set_header("Retry-After", "1");
  body["service_a"] = "unavailable";
  body["reason"] = unavailable->reason;
  body["error"] = unavailable->sentence;
  common::answer_json(response, 503, body);
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
                   [&exchange, &metrics, start = Clock::now()](EchoClient::Answer result) {
                     exchange.answer([&] {
                       const auto duration = Clock::now() - start;
                       const auto* unavailable = std::get_if<Unavailable>(&result);
                       metrics.upstream_call(unavailable ? unavailable->reason : "", duration);
                       fill(exchange, std::move(result), duration);
                     });
                   });
  });
}

}  // namespace service_b
