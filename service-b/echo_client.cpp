#include "service-b/echo_client.hpp"

#include <array>

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

void EchoClient::echo(common::http::Loop& loop, const std::string& msg,
                      const std::string& request_id, const common::http::TraceContext& trace,
                      std::function<void(Answer)> done) {
  auto fields = "User-Agent: service-b\r\nX-Request-ID: " + request_id +
                "\r\ntraceparent: " + trace.traceparent() + "\r\n";
  if (!trace.state.empty()) fields += "tracestate: " + trace.state + "\r\n";
  client_.get(loop, echo_target(msg), fields,
              [this, msg, done = std::move(done)](const common::http::Client::Answer& called) {
                Answer answer = Unavailable{"overloaded", {}, 0};
                try {
                  answer = check(msg, called);
                } catch (const std::bad_alloc&) {
                  // `done` has to be called all the same.
                }
                done(std::move(answer));
              });
}

EchoClient::Answer EchoClient::check(const std::string& msg,
                                     const common::http::Client::Answer& called) const {
  if (const auto* failure = std::get_if<CallFailure>(&called)) return describe(*failure);
  const auto answer = nlohmann::json::parse(std::get<std::string>(called), nullptr, false);
  const auto wrong = [&](const char* what) { return describe({CallError::kBadResponse, what}); };
  if (answer.is_discarded()) return wrong("is not JSON");
  if (!answer.is_object()) return wrong("is not a JSON object");
  const auto echo = answer.find("echo");
  if (echo == answer.end() || *echo != msg) return wrong("does not echo the msg that was sent");
  // Made anew: nothing else that the answer may hold is passed on.
  nlohmann::json right;
  right["echo"] = msg;
  return right;
}

std::span<const std::string_view> EchoClient::reasons() { return kReasons; }

/// The table of reasons: the only place that decides what becomes of a failure.
Unavailable EchoClient::describe(const CallFailure& failure) const {
  const auto service_a = "service-a at " + client_.url().authority();
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
