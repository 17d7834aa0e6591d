#include "service-b/echo_client.hpp"

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/http/request_head.hpp"
#include "common/http/url.hpp"
#include "common/json.hpp"

namespace service_b {
namespace {

using common::http::CallError;
using common::http::CallFailure;

// In the order of CallError.
constexpr std::array<std::string_view, 8> kReasons{
    "connection_refused", "unreachable", "dns_failure",  "timeout",
    "connection_closed",  "bad_status",  "bad_response", "overloaded"};

/// Reads an answer event by event, for a value of nlohmann::json may need memory to be destroyed
/// (json_object() tells more). All functions are called by nlohmann::json::sax_parse().
struct EchoReader {
  bool is_object = false;
  std::optional<std::string> echo;  ///< where it is a string; the last one wins

  bool null() { return other(); }
  bool boolean(bool) { return other(); }
  bool number_integer(std::int64_t) { return other(); }
  bool number_unsigned(std::uint64_t) { return other(); }
  bool number_float(double, const std::string&) { return other(); }
  bool binary(nlohmann::json::binary_t&) { return other(); }
  bool string(std::string& text) {
    if (at_echo_) echo = std::move(text);
    at_echo_ = false;
    return true;
  }
  bool start_object(std::size_t) {
    is_object = is_object || depth_ == 0;
    return begin();
  }
  bool start_array(std::size_t) { return begin(); }
  bool key(const std::string& name) {
    at_echo_ = depth_ == 1 && name == "echo";
    return true;
  }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) {
    return false;
  }

 private:
  bool other() {
    if (at_echo_) echo.reset();
    at_echo_ = false;
    return true;
  }
  bool begin() {
    ++depth_;
    return other();
  }
  bool end() {
    --depth_;
    return true;
  }

  int depth_ = 0;
  bool at_echo_ = false;  // the value that comes is that of the object's `echo`
};

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
                      std::function<void(const Answer&)> done) {
  auto fields = "User-Agent: service-b\r\nX-Request-ID: " + request_id +
                "\r\ntraceparent: " + trace.traceparent() + "\r\n";
  if (!trace.state.empty()) fields += "tracestate: " + trace.state + "\r\n";
  client_.get(loop, echo_target(msg), fields,
              [this, msg, done = std::move(done)](const common::http::Client::Answer& called) {
                Answer answer = Unavailable{"overloaded", "no memory left", 0};
                try {
                  answer = check(msg, called);
                } catch (const std::bad_alloc&) {
                  // `done` has to be called all the same.
                }
                done(answer);
              });
}

EchoClient::Answer EchoClient::check(const std::string& msg,
                                     const common::http::Client::Answer& called) const {
  if (const auto* failure = std::get_if<CallFailure>(&called)) return describe(*failure);
  EchoReader answer;
  const bool json = nlohmann::json::sax_parse(std::get<std::string>(called), &answer);
  const auto wrong = [&](const char* what) { return describe({CallError::kBadResponse, what}); };
  if (!json) return wrong("is not JSON");
  if (!answer.is_object) return wrong("is not a JSON object");
  if (answer.echo != msg) return wrong("does not echo the msg that was sent");
  // Made anew: nothing else that the answer may hold is passed on.
  return common::json_object({{"echo", common::to_json(msg)}});
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
