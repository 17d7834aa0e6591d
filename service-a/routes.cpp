#include "service-a/routes.hpp"

#include <nlohmann/json.hpp>
#include <random>

#include "common/http/fiber.hpp"
#include "common/json.hpp"

namespace service_a {
namespace {

bool chosen(double share) {
  thread_local std::mt19937 random{std::random_device{}()};
  return std::bernoulli_distribution(share)(random);
}

}  // namespace

void add_routes(common::http::Server& server, const Options& options) {
  server.Get("/echo", [delay = options.delay, error_rate = options.error_rate](
                          const httplib::Request& request, httplib::Response& response,
                          common::http::Exchange& exchange) {
    if (delay.count() > 0) common::http::sleep_for(delay);
    if (error_rate > 0 && chosen(error_rate)) {
      exchange.outcome = common::http::Exchange::Outcome::kFailed;
      exchange.note("error", "chosen by --error-rate");
      return common::http::answer_error(response, 500, "chosen to fail by --error-rate");
    }
    if (const auto msg = common::read_msg(request, response)) {
      common::answer_json(response, 200, {{"echo", *msg}});
    }
  });
}

}  // namespace service_a
