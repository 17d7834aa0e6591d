#pragma once

#include "common/http/server.hpp"
#include "common/options.hpp"

namespace service_a {

struct Options : common::Options {
  Options() { port = 8080; }
  common::Duration delay{0};  ///< each /echo is answered this late
  double error_rate = 0;      ///< the share of /echo that is answered 500
};

/// Adds /echo?msg=hello -> {"echo":"hello"}.
void add_routes(common::http::Server& server, const Options& options);

}  // namespace service_a
