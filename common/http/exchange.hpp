#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/http/trace.hpp"

namespace common::http {

/// One request and what became of it: what a handler may need beyond httplib::Request, and what the
/// log and the metrics are told when the answer is there. Lives on one thread at a time.
struct Exchange {
  std::string method;      ///< a token, or empty where the request was not understood
  std::string endpoint;    ///< the path as sent, without the query; or empty
  std::string_view route;  ///< the registered path that matched, or empty: safe as a metric label
  std::string request_id;
  TraceContext trace;

  std::chrono::steady_clock::time_point start;  ///< when the head was complete
  std::chrono::nanoseconds latency{0};
  int status = 0;

  enum class Outcome { kOk, kRefused, kFailed };
  Outcome outcome = Outcome::kOk;

  /// A handler's own fields for the log line, in order. Numbers are told apart for the JSON format.
  struct Note {
    std::string_view key;  ///< a literal
    std::string value;
    bool number = false;
  };
  std::vector<Note> notes;

  void note(std::string_view key, std::string value, bool number = false) {
    notes.push_back({key, std::move(value), number});
  }
};

}  // namespace common::http
