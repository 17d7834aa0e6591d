#pragma once

#include "common/http/server.hpp"
#include "common/options.hpp"

namespace service_a {

struct Options : common::Options {
  Options() { port = 8080; }
  common::Duration delay{0};  ///< each /echo is answered this late
};

/// Adds /echo?msg=hello -> {"echo":"hello"}.
void add_routes(common::http::Server& server, const Options& options);

}  // namespace service_a
