#include "service-a/routes.hpp"

#include <nlohmann/json.hpp>

#include "common/http/fiber.hpp"
#include "common/json.hpp"

namespace service_a {

void add_routes(common::http::Server& server, const Options& options) {
  server.Get("/echo",
             [delay = options.delay](const httplib::Request& request, httplib::Response& response) {
               if (delay.count() > 0) common::http::sleep_for(delay);
               if (const auto msg = common::read_msg(request, response)) {
                 common::answer_json(response, 200, {{"echo", *msg}});
               }
             });
}

}  // namespace service_a
