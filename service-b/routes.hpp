#pragma once

#include "common/http/server.hpp"
#include "common/metrics.hpp"
#include "service-b/echo_client.hpp"

namespace service_b {

/// Adds /call-echo?msg=hello -> {"service_a":{"echo":"hello"},"service_b":"ok"}, or a 503 with the
/// reason. Both must outlive the server.
void add_routes(common::http::Server& server, EchoClient& service_a, common::Metrics& metrics);

}  // namespace service_b
