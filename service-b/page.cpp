#include "service-b/page.hpp"

#include "page_html.hpp"  // made by page.cmake

namespace service_b {
namespace {

void fill_in(std::string& text, std::string_view name, const std::string& value) {
  text.replace(text.find(name), name.size(), value);
}

}  // namespace

void add_page(common::http::Server& server, common::Duration budget, std::uint16_t service_a_port) {
  std::string html = kHtml;
  fill_in(html, "{budget_ms}", std::to_string(budget.count()));
  fill_in(html, "{service_a_port}", std::to_string(service_a_port));
  // No script and no style but the page's own, known by their hashes; no requests but to this
  // server (Content Security Policy level 3).
  const auto policy = std::string("default-src 'none'; script-src '") + kScriptHash +
                      "'; style-src '" + kStyleHash +
                      "'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'; require-trusted-types-for 'script'";
  server.Get("/", [html, policy](const httplib::Request&, httplib::Response& response) {
    response.set_header("Content-Security-Policy", policy);
    response.set_content(html, "text/html; charset=utf-8");
  });
}

}  // namespace service_b
