#include "service-a/routes.hpp"

#include "common/json.hpp"

namespace service_a {

void add_routes(common::http::Server& server, const Options& options) {
  server.Get(
      "/echo",
      [](const httplib::Request& request, httplib::Response& response, common::http::Exchange&) {
        std::string msg;
        if (!common::read_msg(request, response, msg)) return;
        common::answer_json(response, 200, {{"echo", msg}});
      },
      options.delay);
}

}  // namespace service_a
