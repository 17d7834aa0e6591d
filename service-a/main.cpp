#include <iostream>

#include "common/service.hpp"
#include "service-a/routes.hpp"

int main(int argc, char** argv) try {
  service_a::Options options;
  common::OptionParser parser(
      "service-a", "Service A: answers GET /echo?msg=hello, /health, /ready and /metrics.",
      options);
  parser.add_duration("--delay", options.delay, common::Duration(0),
                      "Answer every /echo this late, to see the other service's timeout");
  if (const auto code = parser.parse(argc, argv)) return *code;
  if (options.check) return common::check_health("service-a", options);

  int no_calls = 0;
  const auto warning = common::fit_to_file_limit(options, no_calls);
  common::Service service("service-a", options);
  if (!warning.empty()) service.log().event(common::LogLevel::kWarn, warning);
  service_a::add_routes(service.server(), options);
  return service.run({{"delay", common::to_text(options.delay)}});
} catch (const std::exception& error) {  // such as no files or threads left
  std::cerr << "service-a: cannot run: " << error.what() << "\n";
  return 1;
}
