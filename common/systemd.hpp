#pragma once

#include <chrono>
#include <string_view>

namespace common::systemd {

// What a service and its manager say to each other, in some lines of our own: libsystemd brings
// seven libraries with it, which cost 1.3 MB of memory and half a millisecond at each start.
// Where there is no manager, each of these does nothing.

/// Tells the manager, such as "READY=1": sd_notify(3).
void notify(std::string_view state);

/// The manager restarts a service that does not say WATCHDOG=1 this often; 0: it does not care.
/// sd_watchdog_enabled(3).
std::chrono::microseconds watchdog_time();

/// A socket that the manager has opened for us, or -1: sd_listen_fds(3). Throws std::system_error
/// where there are several. To be called once.
int inherited_socket();

/// Whether what is written to `fd` goes to the journal, where a line may begin with its level:
/// JOURNAL_STREAM in systemd.exec(5), sd-daemon(3).
bool is_journal(int fd);

}  // namespace common::systemd
