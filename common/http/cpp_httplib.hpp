#pragma once

#include <httplib.h>

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>

/// cpp-httplib's request code, without its sockets. All that differs between its version 0.11 (that
/// of Debian 12) and 0.53 is in this file.
namespace common::http {

/// What cpp-httplib reads from and writes to.
class BufferedStream : public httplib::Stream {
 public:
  ssize_t read(char* to, size_t size) final {
    if (unread_.empty()) {
      if (const auto count = fill(); count <= 0) return count;
    }
    size = unread_.copy(to, size);
    unread_.remove_prefix(size);
    return static_cast<ssize_t>(size);
  }

  // The set_up function of ServerEngine knows the addresses.
  void get_remote_ip_and_port(std::string&, int&) const final {}
  void get_local_ip_and_port(std::string&, int&) const final {}

  // Less than FD_SETSIZE, or version 0.11 answers 500: it takes it for a file that it may
  // select(2).
  socket_t socket() const final { return 0; }
  bool is_readable() const final { return true; }
#ifdef CPPHTTPLIB_VERSION_NUM  // 0.53
  bool wait_readable() const final { return true; }
  bool wait_writable() const final { return true; }
  time_t duration() const final { return 0; }
  const char* buffered_data(size_t& size) const final {
    size = unread_.size();
    return size > 0 ? unread_.data() : nullptr;
  }
  void consume_buffered(size_t size) final { unread_.remove_prefix(size); }
#else
  bool is_writable() const final { return true; }
#endif

 protected:
  /// Called where unread_ is empty: fills it, and returns its size; 0 at the end of the stream, or
  /// a negative number.
  virtual ssize_t fill() = 0;
  std::string_view unread_;
};

/// Whether the answer's body is not in `response.body`.
inline bool has_content_provider(const httplib::Response& response) {
#ifdef CPPHTTPLIB_VERSION_NUM
  if (!response.file_content_path_.empty()) return true;
#endif
  return static_cast<bool>(response.content_provider_);
}

/// httplib::Server without what opens sockets.
class ServerEngine : private httplib::Server {
 public:
  using httplib::Server::Handler;

 protected:
  using httplib::Server::HandlerResponse;
  using httplib::Server::set_exception_handler;
  using httplib::Server::set_post_routing_handler;
  using httplib::Server::set_pre_routing_handler;

  /// Reads a request from `stream` and writes its answer. The post-routing handler finds
  /// "Connection: close" in it, which is cheaper than the Keep-Alive field that would be there
  /// otherwise, and has to decide.
  bool process(BufferedStream& stream, const std::function<void(httplib::Request&)>& set_up) {
    bool closed = false;
#ifdef CPPHTTPLIB_VERSION_NUM
    return process_request(stream, {}, 0, {}, 0, true, closed, set_up, nullptr);
#else
    return process_request(stream, true, closed, set_up);
#endif
  }
};

/// httplib::Client without what opens sockets.
class ClientEngine : private httplib::ClientImpl {
 public:
  ClientEngine() : ClientImpl("localhost") {
    set_decompress(false);
#ifdef CPPHTTPLIB_VERSION_NUM
    set_path_encode(false);
#else
    set_url_encode(false);
#endif
  }

  /// Writes `request`, reads its answer. Thread-safe. Throws nothing but std::bad_alloc.
  bool process(BufferedStream& stream, httplib::Request& request, httplib::Response& response) {
    auto error = httplib::Error::Success;
    return process_request(stream, request, response, false, error);
  }
};

}  // namespace common::http
