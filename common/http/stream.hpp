#pragma once

#include <httplib.h>

#include <string>

namespace common::http {

/// A httplib::Stream that is not a socket: the base of the in-memory streams that stand between
/// cpp-httplib and the sockets we own. Covers the pure virtuals of 0.11.4 and of newer versions
/// alike, so they carry no `override`.
class MemoryStream : public httplib::Stream {
 public:
  bool is_readable() const override { return true; }
  virtual bool is_writable() const { return true; }
  virtual bool wait_readable() const { return true; }
  virtual bool wait_writable() const { return true; }
  virtual time_t duration() const { return 0; }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return INVALID_SOCKET; }
};

}  // namespace common::http
