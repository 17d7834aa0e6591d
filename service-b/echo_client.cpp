#include "service-b/echo_client.hpp"

#include <array>
#include <nlohmann/json.hpp>

#include "common/http/request_head.hpp"
#include "common/http/url.hpp"

namespace service_b {
namespace {

using common::http::CallError;
using common::http::CallFailure;

// In the order of CallError.
constexpr std::array<std::string_view, 8> kReasons{
    "connection_refused", "unreachable", "dns_failure",  "timeout",
    "connection_closed",  "bad_status",  "bad_response", "overloaded"};

std::string echo_target(const std::string& msg) {
  return "/echo?msg=" + common::http::percent_encode(msg);
}

}  // namespace

EchoClient::EchoClient(const Options& options, std::size_t loops)
    : timeout_(common::to_text(options.timeout)),
      client_(common::http::parse_base_url(options.service_a_url),
              {.budget = options.timeout,
               .max_calls = static_cast<std::size_t>(options.max_upstream_calls)},
              loops) {}

bool EchoClient::fits(const std::string& msg) {
  constexpr std::string_view kAroundTarget = "GET  HTTP/1.1";
  return kAroundTarget.size() + echo_target(msg).size() <= common::http::kMaxRequestLine;
}

std::optional<Unavailable> EchoClient::echo(const std::string& msg,
                                            const common::http::Exchange& exchange) {
  const auto& trace = exchange.trace;
  httplib::Headers headers{{"User-Agent", "service-b"},
                           {"X-Request-ID", exchange.request_id},
                           {"traceparent", trace.traceparent()}};
  if (!trace.state.empty()) headers.emplace("tracestate", trace.state);
  const auto called = client_.get(echo_target(msg), std::move(headers));
  if (const auto* failure = std::get_if<CallFailure>(&called)) return describe(*failure);

  // What is nested deeper would cost time and says nothing here: it is checked, but not kept.
  const auto keep = [](int depth, auto, const auto&) { return depth <= 1; };
  const auto& text = std::get<std::string>(called);
  const auto answer = nlohmann::json::parse(text, keep, false);
  const auto wrong = [&](const char* what) { return describe({CallError::kBadResponse, what}); };
  // nlohmann/json takes a NUL for the end.
  if (answer.is_discarded() || text.find('\0') != std::string::npos) return wrong("is not JSON");
  if (!answer.is_object()) return wrong("is not a JSON object");
  const auto echo = answer.find("echo");
  if (echo == answer.end() || *echo != msg) return wrong("does not echo the msg that was sent");
  return std::nullopt;
}

std::span<const std::string_view> EchoClient::reasons() { return kReasons; }

/// The table of reasons: the only place that decides what becomes of a failure.
Unavailable EchoClient::describe(const CallFailure& failure) const {
  const auto service_a = "service-a at " + client_.url().address();
  const auto detail = failure.detail.empty() ? std::string() : " (" + failure.detail + ")";
  Unavailable out{kReasons.at(static_cast<std::size_t>(failure.error)), {}, 0};
  switch (failure.error) {
    case CallError::kConnectionRefused: out.sentence = "nobody listens for " + service_a; break;
    case CallError::kUnreachable: out.sentence = service_a + " cannot be reached" + detail; break;
    case CallError::kDnsFailure:
      out.sentence = "the name of " + service_a + " does not resolve" + detail;
      break;
    case CallError::kTimeout:
      out.sentence = service_a + " did not answer within " + timeout_ + detail;
      break;
    case CallError::kConnectionClosed:
      out.sentence = service_a + " closed the connection before its answer was complete";
      break;
    case CallError::kBadStatus:
      out.sentence = service_a + " answered with status " + std::to_string(failure.upstream_status);
      out.upstream_status = failure.upstream_status;
      break;
    case CallError::kBadResponse:
      out.sentence = "the answer of " + service_a + " " + failure.detail;
      break;
    case CallError::kOverloaded:
      out.sentence = "too many calls wait for " + service_a + detail;
      break;
  }
  return out;
}

}  // namespace service_b
