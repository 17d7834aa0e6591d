#include <nlohmann/json.hpp>

#include "common/service.hpp"
#include "service-a/routes.hpp"

int main(int argc, char** argv) try {
  common::prepare_process();
  service_a::Options options;
  common::OptionParser parser(
      "service-a", "Service A: answers GET /echo?msg=hello, /health, /ready and /metrics.",
      options);
  parser.add_duration("--delay", options.delay, common::Duration(0),
                      "Answer every /echo this late, to see the other service's timeout");
  parser.add_share("--error-rate", options.error_rate,
                   "Share of /echo answered 500, to see what the other service makes of it");
  if (const auto code = parser.parse(argc, argv)) return *code;
  if (options.check) return common::check_health("service-a", options);

  int no_calls = 0;
  const auto warning = common::fit_to_file_limit(options, no_calls);
  common::Service service("service-a", options);
  if (!warning.empty()) service.log().event(spdlog::level::warn, warning);
  service_a::add_routes(service.server(), options);
  return service.run({{"delay", common::to_text(options.delay)},
                      {"error_rate", nlohmann::json(options.error_rate).dump(), true}});
} catch (const std::exception& error) {  // such as no files or threads left
  return common::fail(1, "service-a", std::string("cannot run: ") + error.what());
}
