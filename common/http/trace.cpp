#include "common/http/trace.hpp"

#include <algorithm>
#include <cstdint>
#include <random>

#include "common/http/fields.hpp"

namespace common::http {
namespace {

bool is_lower_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); });
}

bool is_id(std::string_view text) {
  return is_lower_hex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

// Section 3.2: version "-" trace-id "-" parent-id "-" trace-flags. Version 00 ends there; a later
// version may go on behind another "-"; version ff is invalid.
bool is_traceparent(std::string_view text) {
  if (text.size() < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  const auto version = text.substr(0, 2);
  if (!is_lower_hex(version) || version == "ff") return false;
  if (text.size() > 55 && (version == "00" || text[55] != '-')) return false;
  return is_id(text.substr(3, 32)) && is_id(text.substr(36, 16)) &&
         is_lower_hex(text.substr(53, 2));
}

// Section 3.3.1.5: at least 512 characters should be passed on; longer ones are dropped whole.
bool is_tracestate(std::string_view text) {
  return text.size() <= 512 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 0x20 && c <= 0x7e) || c == '\t';
         });
}

}  // namespace

std::string random_hex(int digits) {
  constexpr std::string_view kHex = "0123456789abcdef";
  thread_local std::mt19937_64 generator{[] {
    std::random_device device;
    return (static_cast<std::uint64_t>(device()) << 32) | device();
  }()};
  std::string out(static_cast<std::size_t>(digits), '0');
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i % 16 == 0) bits = generator();
    out[i] = kHex[bits & 15];
    bits >>= 4;
  }
  if (out.find_first_not_of('0') == std::string::npos) out.back() = '1';
  return out;
}

std::string accept_request_id(std::string_view value) {
  const auto allowed = [](char c) { return is_alnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!value.empty() && value.size() <= 128 && std::all_of(value.begin(), value.end(), allowed)) {
    return std::string(value);
  }
  return random_hex(32);
}

TraceContext continue_trace(std::string_view traceparent, std::string_view tracestate) {
  TraceContext trace;
  trace.span_id = random_hex(16);
  if (is_traceparent(traceparent)) {
    trace.trace_id = traceparent.substr(3, 32);
    // Section 3.2.2.5: of a future version's flags only the known one, "sampled", is sent on.
    constexpr std::string_view kOdd = "13579bdf";
    trace.flags = kOdd.find(traceparent[54]) != std::string_view::npos ? "01" : "00";
    if (is_tracestate(tracestate)) trace.state = tracestate;
  } else {
    trace.trace_id = random_hex(32);
  }
  return trace;
}

}  // namespace common::http
