#include "common/service.hpp"
#include "service-b/page.hpp"
#include "service-b/routes.hpp"

int main(int argc, char** argv) try {
  common::prepare_process();
  service_b::Options options;
  common::OptionParser parser("service-b",
                              "Service B: answers GET /call-echo?msg=hello by calling Service A, "
                              "/ with a web page that shows it live, /health, /ready and /metrics.",
                              options);
  parser.add_url("--service-a-url", options.service_a_url, "Where Service A is reached");
  parser.add_duration("--timeout", options.timeout, common::Duration(1),
                      "Budget of a whole call to Service A");
  parser.add_number("--max-upstream-calls", options.max_upstream_calls, 1, 1'000,
                    "Calls that may wait for Service A; more are answered 503 at once");
  if (const auto code = parser.parse(argc, argv)) return *code;
  if (options.check) return common::check_health("service-b", options);

  const auto warning = common::fit_to_file_limit(options, options.max_upstream_calls);
  common::Service service("service-b", options);
  if (!warning.empty()) service.log().event(spdlog::level::warn, warning);
  service_b::EchoClient service_a(options, service.server().threads());
  service.metrics().add_gauge("http_client_active_requests", "Calls to Service A under way.",
                              [&] { return static_cast<double>(service_a.calls_under_way()); });
  service_b::add_routes(service.server(), service_a, service.metrics());
  service_b::add_page(service.server(), options.timeout, service_a.url().port);
  return service.run({{"service_a_url", options.service_a_url},
                      {"timeout", common::to_text(options.timeout)},
                      {"max_upstream_calls", std::to_string(options.max_upstream_calls), true}});
} catch (const std::exception& error) {  // such as no files or threads left
  return common::fail(1, "service-b", std::string("cannot run: ") + error.what());
}
