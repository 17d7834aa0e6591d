#include "support/http_client.hpp"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

namespace tests {
namespace {

using std::chrono::milliseconds;

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// All of `text` as a number.
template <typename Number>
std::optional<Number> to_number(std::string_view text, int base = 10) {
  Number number{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

enum class Progress { kComplete, kIncomplete, kMalformed };

// Status line and fields of `head`, which ends with an empty line.
bool parse_head(std::string_view head, Response& response) {
  response.head = head;
  auto end = head.find("\r\n");
  const auto line = head.substr(0, end);
  if (line.size() < 12 || !line.starts_with("HTTP/1.") || line[8] != ' ') return false;
  const auto status = to_number<int>(line.substr(9, 3));
  if (!status || (line.size() > 12 && line[12] != ' ')) return false;
  response.status = *status;
  for (head.remove_prefix(end + 2); !head.starts_with("\r\n"); head.remove_prefix(end + 2)) {
    end = head.find("\r\n");
    const auto field = head.substr(0, end);
    const auto colon = field.find(':');
    if (colon == std::string_view::npos) return false;
    response.headers.emplace_back(lower(field.substr(0, colon)), trim(field.substr(colon + 1)));
  }
  return true;
}

// Decodes the chunked body at the start of `bytes`; `used` is its length there.
Progress decode_chunks(std::string_view bytes, std::string& body, std::size_t& used) {
  bool trailers = false;
  for (used = 0;;) {
    const auto end = bytes.find("\r\n", used);
    if (end == std::string_view::npos) return Progress::kIncomplete;
    const auto line = bytes.substr(used, end - used);
    used = end + 2;
    if (trailers && line.empty()) return Progress::kComplete;
    if (trailers) continue;
    const auto size = to_number<std::size_t>(trim(line.substr(0, line.find(';'))), 16);
    if (!size) return Progress::kMalformed;
    trailers = *size == 0;
    if (trailers) continue;
    if (bytes.size() - used < *size || bytes.size() - used - *size < 2)
      return Progress::kIncomplete;
    body.append(bytes.substr(used, *size));
    used += *size + 2;
    if (bytes.substr(used - 2, 2) != "\r\n") return Progress::kMalformed;
  }
}

// The answer at the start of `bytes`; `used` is its length there. `closed`: no more will come.
Progress parse(std::string_view bytes, bool closed, bool head_request, Response& response,
               std::size_t& used) {
  response = {};
  const auto end = bytes.find("\r\n\r\n");
  if (end == std::string_view::npos) return Progress::kIncomplete;
  used = end + 4;
  if (!parse_head(bytes.substr(0, used), response)) return Progress::kMalformed;
  const auto status = response.status;
  if (head_request || status < 200 || status == 204 || status == 304) return Progress::kComplete;
  const auto rest = bytes.substr(used);
  if (lower(response.header("transfer-encoding").value_or("")) == "chunked") {
    std::size_t length = 0;
    const auto progress = decode_chunks(rest, response.body, length);
    used += length;
    return progress;
  }
  const auto text = response.header("content-length");
  const auto length = text ? to_number<std::size_t>(*text) : rest.size();
  if (!length) return Progress::kMalformed;
  if (text ? rest.size() < *length : !closed) return Progress::kIncomplete;
  response.body = rest.substr(0, *length);
  used += *length;
  return Progress::kComplete;
}

}  // namespace

std::optional<std::string> Response::header(std::string_view name) const {
  const auto wanted = lower(name);
  for (const auto& [key, value] : headers) {
    if (key == wanted) return value;
  }
  return std::nullopt;
}

nlohmann::json Response::json() const { return nlohmann::json::parse(body, nullptr, false); }

std::string Response::field(const std::string& key) const {
  const auto object = json();
  const auto found = object.find(key);
  if (!object.is_object() || found == object.end()) return "(none)";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

Connection::Connection(std::uint16_t port, const ConnectionOptions& options) {
  const auto address = ipv4_address(options.host, port);
  UniqueFd fd(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  const auto set = [&fd](int level, int name, const auto& value) {
    check(::setsockopt(fd.get(), level, name, &value, sizeof value), "setsockopt");
  };
  if (options.receive_buffer > 0) set(SOL_SOCKET, SO_RCVBUF, options.receive_buffer);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  const auto ms = options.connect_timeout.count();
  set(SOL_SOCKET, SO_SNDTIMEO, timeval{ms / 1000, ms % 1000 * 1000});  // connect(2) obeys it
  int result = 0;
  do {  // Linux goes on with one that a signal has interrupted, as the fuzzer's alarm does
    result = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    error_ = std::string("connect: ") + std::strerror(errno == EINPROGRESS ? ETIMEDOUT : errno);
    return;
  }
  check(::fcntl(fd.get(), F_SETFL, O_NONBLOCK), "fcntl");
  fd_ = std::move(fd);
}

bool Connection::send(std::string_view bytes, milliseconds timeout) {
  if (!fd_) return false;
  const auto deadline = Clock::now() + timeout;
  while (!bytes.empty()) {
    const auto count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      pollfd polled{fd_.get(), POLLOUT, 0};
      if (::poll(&polled, 1, poll_timeout(deadline)) == 0) {
        error_ = "send: timeout";
        return false;
      }
    } else if (errno != EINTR) {
      error_ = std::string("send: ") + std::strerror(errno);
      return false;
    }
  }
  return true;
}

Connection::Fill Connection::fill(Clock::time_point deadline) {
  if (!fd_) return Fill::kReset;
  std::array<char, 65536> block{};
  while (true) {
    const auto count = ::recv(fd_.get(), block.data(), block.size(), 0);
    if (count > 0) {
      buffer_.append(block.data(), static_cast<std::size_t>(count));
      return Fill::kData;
    }
    if (count == 0) return Fill::kClosed;
    if (errno == EAGAIN) {
      pollfd polled{fd_.get(), POLLIN, 0};
      if (::poll(&polled, 1, poll_timeout(deadline)) == 0) return Fill::kTimeout;
    } else if (errno != EINTR) {
      error_ = std::string("recv: ") + std::strerror(errno);
      return Fill::kReset;
    }
  }
}

Response Connection::read_response(milliseconds timeout, bool head_request) {
  const auto deadline = Clock::now() + timeout;
  Response response;
  std::size_t used = 0;
  auto filled = fd_ ? Fill::kData : Fill::kReset;
  auto progress = parse(buffer_, false, head_request, response, used);
  for (bool first = true; progress == Progress::kIncomplete && filled == Fill::kData;
       first = false) {
    // A peer that sends for ever never lets fill() wait, so the clock is asked here as well; but
    // only after what has already arrived was read once.
    filled = first || Clock::now() < deadline ? fill(deadline) : Fill::kTimeout;
    progress = parse(buffer_, filled == Fill::kClosed, head_request, response, used);
  }
  if (progress == Progress::kComplete) {
    buffer_.erase(0, used);
    error_.clear();
    return response;
  }
  if (progress == Progress::kMalformed) {
    error_ = "not HTTP";
  } else if (fd_) {  // otherwise it has the reason since the connect
    error_ = filled == Fill::kClosed  ? "closed before a complete answer"
             : filled == Fill::kReset ? "reset before a complete answer"
                                      : "timeout before a complete answer";
  }
  response = {};
  response.error = error_;
  return response;
}

bool Connection::closed_by_peer(milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (true) {
    const auto filled = fill(deadline);
    if (filled == Fill::kTimeout || (filled == Fill::kData && Clock::now() >= deadline))
      return false;
    if (filled != Fill::kData) return true;
  }
}

void Connection::shutdown_write() {
  if (fd_) ::shutdown(fd_.get(), SHUT_WR);
}

void Connection::reset() {
  if (!fd_) return;
  const linger now{1, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd_.reset();
}

Response get(std::uint16_t port, std::string_view target, const Headers& extra_headers,
             milliseconds timeout, std::string_view method) {
  const auto deadline = Clock::now() + timeout;
  const auto left = [deadline] { return milliseconds(poll_timeout(deadline)); };

  std::string fields;
  for (const auto& [name, value] : extra_headers) fields += name + ": " + value + "\r\n";
  Connection connection(port, ConnectionOptions{.connect_timeout = timeout});
  // A peer may refuse, and close, before it read everything: its answer counts even if sending
  // failed.
  connection.send(request_text(target, method, fields), left());
  return connection.read_response(left(), method == "HEAD");
}

std::string request_text(std::string_view target, std::string_view method,
                         std::string_view fields) {
  return std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: test\r\n" +
         std::string(fields) + "\r\n";
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && (std::isalnum(byte) != 0 || std::strchr("-._~", byte) != nullptr) &&
        byte != 0) {
      result += c;
    } else {
      result += '%';
      result += kHex[byte >> 4U];
      result += kHex[byte & 15U];
    }
  }
  return result;
}

}  // namespace tests
