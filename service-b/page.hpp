#pragma once

#include <cstdint>

#include "common/http/server.hpp"
#include "common/options.hpp"

namespace service_b {

/// Adds /: the web page of page.html, which CMake puts into the program. It calls /call-echo and
/// shows what comes back. `budget` is drawn as a line, `service_a_port` goes into the commands it
/// offers.
void add_page(common::http::Server& server, common::Duration budget, std::uint16_t service_a_port);

}  // namespace service_b
