#include "service-b/routes.hpp"

#include <nlohmann/json.hpp>

#include "common/json.hpp"

namespace service_b {
namespace {

using common::http::Clock;
using common::http::Exchange;

void answer_unavailable(httplib::Response& response, Exchange& exchange,
                        const Unavailable& unavailable) {
  exchange.outcome = Exchange::Outcome::kFailed;
  exchange.note("reason", std::string(unavailable.reason));
  exchange.note("error", unavailable.sentence);
  if (unavailable.upstream_status != 0) {
    exchange.note("upstream_status", std::to_string(unavailable.upstream_status), true);
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
  for (const int status : {500, 503}) metrics.expect_request("/call-echo", status);
  server.Get("/call-echo", [&service_a, &metrics](const httplib::Request& request,
                                                  httplib::Response& response, Exchange& exchange) {
    const auto msg = common::read_msg(request, response);
    if (!msg) return;
    if (!EchoClient::fits(*msg)) {
      return common::http::answer_error(response, 414,
                                        "msg is too long to be sent on to service-a");
    }
    const auto start = Clock::now();
    const auto unavailable = service_a.echo(*msg, exchange);
    const auto duration = Clock::now() - start;

    metrics.upstream_call(unavailable ? unavailable->reason : "", duration);
    const auto took = common::milliseconds(duration);
    exchange.note("upstream_ms", took, true);
    response.set_header("Server-Timing", "service-a;dur=" + took);
    if (unavailable) return answer_unavailable(response, exchange, *unavailable);
    nlohmann::json body;  // a nested initializer list would copy it twice
    body["service_a"]["echo"] = *msg;
    body["service_b"] = "ok";
    common::answer_json(response, 200, body);
  });
}

}  // namespace service_b
