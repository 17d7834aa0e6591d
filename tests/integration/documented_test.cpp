#include <regex>
#include <set>

#include "integration/harness.hpp"

// What a service can do is told where people look for it.

namespace tests {
namespace {

// At the start /metrics already has each route of the service, and nothing else.
std::set<std::string> routes_of(const Service& service) {
  return all_of(metrics_of(service.port()), R"re(http_route="([^"]+)")re");
}

// As a path of its own, or behind an address; not as a part of another one.
bool names(const std::string& text, const std::string& route) {
  return std::regex_search(text, std::regex("(^|[^A-Za-z/<])" + route + "($|[^A-Za-z0-9/_-])"));
}

TEST(Documented, EachRouteIsInHelpReadmeAndPage) {
  const auto readme = read_file("README.md");
  const auto a = start_a();
  const auto b = start_b(a.url());
  const auto page = get(b.port(), "/").body;

  for (const auto& [service, binary, known] :
       {std::tuple{&a, kServiceA, "/echo"}, {&b, kServiceB, "/call-echo"}}) {
    const auto help = run(binary, {"--help"}).out;
    const auto routes = routes_of(*service);
    ASSERT_TRUE(routes.contains(known));
    for (const auto& route : routes) {
      EXPECT_TRUE(names(help, route)) << route << " in " << binary << " --help";
      EXPECT_TRUE(names(readme, route)) << route << " in README.md";
      EXPECT_TRUE(service == &a || route == "/" || names(page, route)) << route << " in page.html";
    }
  }
}

TEST(Documented, EachReasonIsInReadmePageAlertsAndDashboard) {
  const auto b = start_b("http://127.0.0.1:9");
  const auto page = get(b.port(), "/").body;
  const auto alerts = read_file("deploy/observability/alerts.yml");
  const auto dashboard = read_file("deploy/observability/dashboard.json");
  const auto reasons = all_of(metrics_of(b.port()), R"re(error_type="([^"]+)")re");
  EXPECT_EQ(reasons.size(), 8U);
  for (const auto& reason : reasons) {
    EXPECT_TRUE(all_of(read_file("README.md"), "\n\\| `([a-z_]+)`").contains(reason)) << reason;
    EXPECT_TRUE(all_of(page, "name: \"([a-z_]+)\"").contains(reason)) << reason << " in page.html";
    EXPECT_TRUE(all_of(alerts, "eq \\$reason \"([a-z_]+)\"").contains(reason)) << reason;
    EXPECT_TRUE(all_of(dashboard, "\"options\": *\"([a-z_]+)\"").contains(reason)) << reason;
  }
}

TEST(Documented, EachFlagIsInReadme) {
  const auto in_readme = all_of(read_file("README.md"), "`(--[a-z-]+)`");
  for (const auto& service : {kServiceA, kServiceB}) {
    const auto flags = all_of(run(service, {"--help"}).out, "(--[a-z-]+)");
    ASSERT_TRUE(flags.contains("--port"));
    for (const auto& flag : flags) EXPECT_TRUE(in_readme.contains(flag)) << flag << " in README.md";
  }
}

TEST(Documented, ThePageIsHtmlThatNothingElseMayRunIn) {
  const auto b = start_b("http://127.0.0.1:9", {"--timeout=250ms"});
  const auto page = get(b.port(), "/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.header("cache-control"), "no-store");
  EXPECT_TRUE(
      page.header("content-security-policy").value_or("").starts_with("default-src 'none';"));
  EXPECT_NE(page.body.find(R"(data-budget-ms="250" data-service-a-port="9")"), std::string::npos);
}

}  // namespace
}  // namespace tests
