#include "service-a/routes.hpp"

#include "common/json.hpp"

namespace service_a {

void add_routes(common::http::Server& server, const Options& options) {
  server.Get("/echo", [delay = options.delay](common::http::PendingExchange& exchange) {
    const auto answer = [&exchange] {
      exchange.answer([&exchange] {
        std::string msg;
        if (!common::read_msg(exchange.request, exchange.response, msg)) return;
        const auto echo = common::to_json(msg);
        common::answer_json(exchange.response, 200, common::json_object({{"echo", echo}}));
      });
    };
    if (delay.count() == 0) return answer();
    exchange.loop().after(delay, answer);
  });
}

}  // namespace service_a
