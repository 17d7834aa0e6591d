#pragma once

#include <string>
#include <string_view>

namespace common::http {

/// Where a request stands in a distributed trace (W3C Trace Context, level 1).
struct TraceContext {
  std::string trace_id;      ///< 32 lower-case hex digits, not all zero
  std::string span_id;       ///< 16 of them: the span of this hop
  std::string flags = "01";  ///< 2 of them
  std::string state;         ///< tracestate, only ever taken together with a valid traceparent

  /// The traceparent to send on: this hop's span becomes the parent.
  std::string traceparent() const { return "00-" + trace_id + "-" + span_id + "-" + flags; }
};

/// Goes on with the trace that the two header values name, in a new span. An invalid or empty
/// traceparent begins a new trace, and then `tracestate` is dropped (section 3.3 of the standard).
TraceContext continue_trace(std::string_view traceparent, std::string_view tracestate);

/// `value` if it is 1 to 128 of A-Za-z0-9._-, otherwise a new random id.
std::string accept_request_id(std::string_view value);

/// `digits` random hex digits, not all zero. Not for secrets.
std::string random_hex(int digits);

}  // namespace common::http
