#include "support/faulty_upstream.hpp"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace tests {
namespace {

using std::chrono::milliseconds;
using std::string_view_literals::operator""sv;

constexpr std::size_t kBodyLimit = 64 * 1024;  // what B accepts
constexpr std::size_t kMaxRequests = 10'000;
constexpr std::size_t kMaxHead = 1 << 20;

// --- the table

// Each reads a request, unless its bytes begin with "$-", and sends the bytes, in which a line end
// is CRLF and `$` begins what expand() puts there:
//   $K  HTTP/1.1 200 OK and the type     $B  the right body         $M  the msg, a JSON string
//   $J  Content-Length as it is behind   $R  its length             $E  the same in ASCII
//       it, and the end of the head      $H  all but its end        $N  with a NUL and more
//   $T  Transfer-Encoding: chunked,      $C  as one chunk           $X  5,000 chunks of a space
//       and the end of the head          $P  what it lacks to       $Z  4 KiB of x
//   $n  LF                                   64 KiB, as spaces      $[  30,000 of them; $] too
// Then: kNext   goes on with the next request      kDrip   `more` each 100 ms, for ever
//       kHold   waits until the caller closes      kPour   `more` each millisecond, for ever
//       kClose, kReset                             kFlood  `more` for ever, at full speed
//       kSoon   `more` after 50 ms, and kNext      kLate   `more` after 3 s, and kNext
// Some of them unusual.
constexpr Mode kRight[] = {
    {"right", "a correct Service A, keep-alive", "$K$J$B"},
    {"right-no-reason", "status line without a reason phrase", "HTTP/1.1 200 \n$J$B"},
    {"right-no-space", "status line ends after the number", "HTTP/1.1 200\n$J$B"},
    {"right-other-json", "other key order, white space, escaped, text/html",
     "HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\n$J"
     "\n{ \"x\" : [1, {\"echo\": 2}],\n\t\"echo\" : $E }  \n"},
    {"right-other-head", "field names in lower and upper case, odd white space",
     "HTTP/1.1 200 Fine, thanks: \xC3\xA9\ncontent-type:application/json\nX-EMPTY:\n"
     "X-Field: \t value \t \ncOnTeNt-LeNgTh: \t$R \n\n$B"},
    {"right-close", "with Connection: close, and closes", "$KConnection: close\n$J$B",
     Then::kClose},
    {"right-then-close", "as if kept alive, then closes without a word", "$K$J$B", Then::kClose},
    {"right-then-reset", "as if kept alive, then resets 20 ms later", "$K$J$B", Then::kReset},
    {"right-http10", "HTTP/1.0, no length, body until close", "HTTP/1.0 200 OK\n\n$B",
     Then::kClose},
    {"right-until-close", "HTTP/1.1, no length, body until close", "$K\n$B", Then::kClose},
    {"right-small-chunks", "5,000 chunks of a space, then the right one", "$K$T$X$C0\n\n"},
    {"right-chunk-extras", "chunked, with chunk extensions and trailers",
     "$K$T1;name=value;other=\"a b\"\n \n$C000;last\nX-Trailer: 1\nX-Other: 2\n\n"},
    {"right-late-body", "the body 50 ms after the head", "$KContent-Length: $R\n\n", Then::kSoon,
     "$B"},
    {"right-interim", "100 Continue, 103 Early Hints, then the right answer",
     "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </x>; rel=preload\n\n$K$J$B"},
    {"right-64k", "a body of exactly 65,536 bytes", "$K$J$B$P"},
    {"right-leftover", "followed at once by a wrong answer nobody asked for",
     "$KContent-Length: $R\n\n$B$KContent-Length: 12\n\n{\"echo\":\"x\"}"},
};

constexpr Mode kTooSlow[] = {
    {"silent", "reads the request, never answers", "", Then::kHold},
    {"never-read", "accepts, never reads, never answers", "$-", Then::kHold},
    {"slow-head", "the right answer, 3 s late", "", Then::kLate, "$K$J$B"},
    {"slow-body", "the head at once, the right body 3 s late", "$KContent-Length: $R\n\n",
     Then::kLate, "$B"},
    {"half-body", "the head and half of the body, then nothing", "$KContent-Length: $R\n\n$H",
     Then::kHold},
    {"no-close", "right, but no length and never closed: no end of the body", "$K\n$B",
     Then::kHold},
    {"dripped-head", "an endless head, a byte each 100 ms",
     "HTTP/1.1 200 OK\nX-Drip: ", Then::kDrip, "x"},
    {"dripped-body", "head at once, then a byte of a body of 1,000 each 100 ms",
     "$KContent-Length: 1000\n\n", Then::kDrip, " "},
    {"fast-dripped-body", "head at once, then a byte of an endless body each 1 ms", "$K\n$B",
     Then::kPour, " "},
    {"dripped-chunks", "a chunk of one byte each 100 ms, for ever", "$K$T", Then::kDrip, "1\n \n"},
    {"dripped-trailers", "5,000 small chunks at once, then a trailer each 1 ms, for ever",
     "$K$T$X$C0\n", Then::kPour, "X: x\n"},
    {"dripped-100", "a 100 Continue each 100 ms, for ever", "", Then::kDrip,
     "HTTP/1.1 100 Continue\n\n"},
};

// Before the answer was complete.
constexpr Mode kGone[] = {
    {"reset-on-accept", "resets each connection as it comes", "$-", Then::kReset},
    {"reset-after-request", "reads the request, then resets", "", Then::kReset},
    {"close-on-accept", "closes each connection as it comes", "$-", Then::kClose},
    {"close-after-request", "reads the request, then closes", "", Then::kClose},
    {"cut-in-status-line", "closes in the middle of the status line", "HTTP/1.1 20", Then::kClose},
    {"cut-in-body", "closes in the middle of the body", "$KContent-Length: $R\n\n$H", Then::kClose},
    {"truncated", "a whole right body, but Content-Length says more; closes",
     "$KContent-Length: 60000\n\n$B", Then::kClose},
    {"truncated-chunked", "a whole right body, but no last chunk; closes", "$K$T$C", Then::kClose},
    {"truncated-last-chunk", "closes within the last chunk", "$K$T$C0\n", Then::kClose},
    {"reset-in-body", "sends the head and half of the body, then resets",
     "$KContent-Length: $R\n\n$H", Then::kReset},
    {"reset-until-close", "a right body without a length, ended by a reset", "$K\n$B",
     Then::kReset},
    {"close-after-103", "103 Early Hints, then closes", "HTTP/1.1 103 Early Hints\n\n",
     Then::kClose},
};

// A well-formed answer with another status; but for that, most of them are right.
constexpr Mode kOtherStatus[] = {
    {"status-101", "101 Switching Protocols",
     "HTTP/1.1 101 Switching Protocols\nUpgrade: echo\nConnection: Upgrade\n\n", Then::kHold},
    {"status-201", "201", "HTTP/1.1 201 Created\n$J$B"},
    {"status-204", "204, no body", "HTTP/1.1 204 No Content\n\n"},
    {"status-301", "301 to itself", "HTTP/1.1 301 Moved Permanently\nLocation: /echo\n$J$B"},
    {"status-304", "304, no body", "HTTP/1.1 304 Not Modified\nETag: \"x\"\n\n"},
    {"status-307", "307 to itself", "HTTP/1.1 307 Temporary Redirect\nLocation: /echo\n$J$B"},
    {"status-500", "500", "HTTP/1.1 500 Internal Server Error\n$J$B"},
    {"status-503", "503 with Retry-After",
     "HTTP/1.1 503 Service Unavailable\nRetry-After: 60\n$J$B"},
};

constexpr Mode kWrong[] = {
    // Not HTTP: to be seen through without waiting for the close.
    {"ssh", "an SSH banner, then waits", "$-SSH-2.0-OpenSSH_9.2p1 Debian-2\n", Then::kHold},
    {"http09", "the bare right body without a head, then closes", "$B", Then::kClose},
    {"tls-alert", "what a TLS server says to plain HTTP, then closes",
     "\x15\x03\x03\x00\x02\x02\x46"sv, Then::kClose},
    {"bare-lf", "a right answer with bare LF line ends",
     "HTTP/1.1 200 OK$nContent-Length: $R$n$n$B", Then::kHold},
    // Framing that is wrong or says two things.
    {"length-twice", "two different Content-Lengths", "$KContent-Length: 3\n$J$B", Then::kHold},
    {"length-and-chunked", "Content-Length and Transfer-Encoding",
     "$KTransfer-Encoding: chunked\n$J$C0\n\n", Then::kHold},
    {"chunk-word", "a chunk size of \"zz\"", "$K$Tzz\n$B\n0\n\n", Then::kHold},
    {"chunk-huge", "a chunk size of 2^63 - 1", "$K$T7fffffffffffffff\n$B", Then::kHold},
    {"gzip", "Content-Encoding: gzip, which was not asked for, and garbage",
     "$KContent-Encoding: gzip\n$J\x1f\x8b\x08garbage"},
    // Too much, at full speed.
    {"endless-head", "fields for ever", "HTTP/1.1 200 OK\n", Then::kFlood, "X-More: x\n"},
    {"endless-100", "100 Continue for ever", "", Then::kFlood, "HTTP/1.1 100 Continue\n\n"},
    {"endless-body", "right JSON and white space for ever, no length", "$K\n$B", Then::kFlood, " "},
    {"endless-chunks", "right JSON and white space for ever, chunked", "$K$T$C", Then::kFlood,
     "10\n                \n"},
    {"endless-chunk-extension", "a chunk extension that never ends", "$K$T1;x=", Then::kFlood, "x"},
    {"endless-small-chunks", "chunks of one byte with extensions of 4 KiB", "$K$T", Then::kFlood,
     "1;x=$Z\n \n"},
    {"endless-trailers", "a right chunked body, then trailers for ever", "$K$T$C0\n", Then::kFlood,
     "X-Trailer: x\n"},
    {"huge", "Content-Length of 1 GiB, and sends it", "$KContent-Length: 1073741824\n\n$B",
     Then::kFlood, " "},
    {"over-64k", "right, but a body of 65,537 bytes", "$K$J$B$P "},
    {"over-64k-chunked", "right, but a chunked body of 65,537 bytes", "$K$T10001\n$B$P \n0\n\n"},
    // Not the JSON that was asked for.
    {"not-json", "plain text", "$K$Jhello\n"},
    {"empty", "an empty body", "$K$J"},
    {"json-array", "the right object inside an array", "$K$J[$B]"},
    {"json-string", "the msg as a JSON string", "$K$J$M"},
    {"json-cut", "JSON without its last brace, Content-Length fits", "$K$J{\"echo\":$M"},
    {"json-junk", "the right JSON with junk after it in the body", "$K$J$Bjunk"},
    {"json-nul", "the right JSON with a NUL and junk after it", "$K$J$B\0junk"sv},
    {"json-invalid-utf8", "the right echo beside a string that is not UTF-8",
     "$K$J{\"echo\":$M,\"x\":\"\xC3\x28\xFF\"}"},
    {"json-deep", "an array 30,000 levels deep", "$K$J$[$]"},
    {"echo-missing", "an object without echo", "$K$J{}"},
    {"echo-number", "echo is a number", "$K$J{\"echo\":1}"},
    {"echo-object", "the right object inside echo", "$K$J{\"echo\":$B}"},
    {"echo-wrong", "the echo of another msg", "$K$J{\"echo\":\"not hello\"}"},
    {"echo-with-nul", "the msg with a NUL and more after it", "$K$J{\"echo\":$N}"},
};

// With the reason that B must give.
constexpr struct {
  std::string_view reason;
  std::span<const Mode> modes;
} kGroups[] = {{"", kRight},
               {"timeout", kTooSlow},
               {"connection_closed", kGone},
               {"bad_status", kOtherStatus},
               {"bad_response", kWrong}};

constexpr Mode kRandom{"random", "one of the others, drawn anew for each connection", ""};

std::string quoted(const std::string& text, bool ascii = false) {
  return nlohmann::json(text).dump(-1, ' ', ascii, nlohmann::json::error_handler_t::replace);
}

// The bytes of a mode, for this msg.
std::string expand(std::string_view text, const std::string& msg) {
  const auto body = "{\"echo\":" + quoted(msg) + "}\n";
  std::ostringstream size;
  size << std::hex << body.size();
  std::string out;
  std::size_t length_at = 0;  // where $J puts the length
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') {
      out += "\r\n";
    } else if (text[i] != '$') {
      out += text[i];
    } else {
      switch (text[++i]) {
        case '-': break;
        case 'n': out += '\n'; break;
        case 'K': out += "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"; break;
        case 'J':
          length_at = (out += "Content-Length: ").size();
          out += "\r\n\r\n";
          break;
        case 'T': out += "Transfer-Encoding: chunked\r\n\r\n"; break;
        case 'B': out += body; break;
        case 'R': out += std::to_string(body.size()); break;
        case 'H': out += body.substr(0, body.size() - 4); break;
        case 'C': out += size.str() + "\r\n" + body + "\r\n"; break;
        case 'P': out.append(kBodyLimit - body.size(), ' '); break;
        case 'M': out += quoted(msg); break;
        case 'N': out += quoted(msg + std::string("\0x", 2)); break;
        case 'E': out += quoted(msg, true); break;
        case 'Z': out.append(4096, 'x'); break;
        case 'X':
          for (int count = 0; count < 5'000; ++count) out += "1\r\n \r\n";
          break;
        default: out.append(30'000, text[i]);  // a bracket
      }
    }
  }
  if (length_at > 0) out.insert(length_at, std::to_string(out.size() - length_at - 4));
  return out;
}

// --- a connection

// Each wait ends at once when the upstream stops. What returns bool says whether the connection can
// go on.
struct Peer {
  int fd;
  int stop_fd;
  std::string buffer{};

  // False when stopped, or nothing of `events` happened until `time` (negative: none) is over.
  bool wait(short events, milliseconds time = milliseconds(-1)) const {
    const auto deadline = Clock::now() + time;
    std::array<pollfd, 2> polled{{{fd, events, 0}, {stop_fd, POLLIN, 0}}};
    int ready = 0;
    do {
      ready = ::poll(polled.data(), polled.size(), time.count() < 0 ? -1 : poll_timeout(deadline));
    } while (ready < 0 && errno == EINTR);
    return ready > 0 && polled[1].revents == 0;
  }

  // Whether the caller is still there after `time`.
  bool pause(milliseconds time) const {
    const auto end = Clock::now() + time;
    return !wait(POLLRDHUP, time) && Clock::now() >= end;
  }

  // The next head; empty when there is none.
  std::string request() {
    std::size_t end = 0;
    while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
      std::array<char, 16384> block{};
      if (buffer.size() > kMaxHead || !wait(POLLIN)) return {};
      const auto count = ::recv(fd, block.data(), block.size(), MSG_DONTWAIT);
      if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return {};
      if (count > 0) buffer.append(block.data(), static_cast<std::size_t>(count));
    }
    auto head = buffer.substr(0, end + 4);
    buffer.erase(0, end + 4);
    return head;
  }

  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      if (!wait(POLLOUT)) return false;
      const auto count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (count > 0) bytes.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }

  // Whether to serve the next request.
  bool answer(const Mode& mode, const std::string& msg) const {
    const auto bytes = expand(mode.bytes, msg);
    auto more = expand(mode.more, msg);
    if (!send(bytes)) return false;
    switch (mode.then) {
      case Then::kNext: return true;
      case Then::kHold: wait(POLLRDHUP); return false;
      case Then::kClose: return false;
      case Then::kReset: {
        if (!bytes.empty()) pause(milliseconds(20));
        const linger now{1, 0};
        ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        return false;
      }
      case Then::kSoon: return pause(milliseconds(50)) && send(more);
      case Then::kLate: return pause(milliseconds(3'000)) && send(more);
      case Then::kDrip:
      case Then::kPour:
        while (send(more) && pause(milliseconds(mode.then == Then::kDrip ? 100 : 1))) {
        }
        return false;
      case Then::kFlood:
        while (more.size() < 16'384) more += more;
        while (send(more)) {
        }
        return false;
    }
    return false;
  }
};

// The msg of a request to /echo, decoded.
std::string msg_of(const std::string& head) {
  const auto start = head.find("?msg=");
  const auto end = head.find_first_of("& ", std::min(start, head.size()));
  if (end == std::string::npos) return {};
  std::string result;
  for (auto i = start + 5; i < end; ++i) {
    if (head[i] == '%') {
      result += static_cast<char>(std::strtol(head.substr(i + 1, 2).c_str(), nullptr, 16));
      i += 2;
    } else {
      result += head[i] == '+' ? ' ' : head[i];
    }
  }
  return result;
}

}  // namespace

// --- the list

std::ostream& operator<<(std::ostream& out, const Mode& mode) { return out << mode.name; }

std::span<const Mode> modes() {
  static const auto all = [] {
    std::vector<Mode> result;
    for (const auto& [reason, group] : kGroups) {
      for (Mode mode : group) {
        mode.reason = reason;
        mode.status = reason.empty() ? 200 : 503;
        if (reason == "bad_status") {
          mode.upstream_status =
              std::atoi(mode.bytes.data() + std::string_view("HTTP/1.1 ").size());
        }
        result.push_back(mode);
      }
    }
    return result;
  }();
  return all;
}

const Mode& right_mode() { return modes()[0]; }

const Mode& random_mode() { return kRandom; }

const Mode& mode_named(std::string_view name) {
  if (name == kRandom.name) return kRandom;
  for (const Mode& mode : modes()) {
    if (mode.name == name) return mode;
  }
  throw std::invalid_argument("no mode \"" + std::string(name) + "\"");
}

// --- FaultyUpstream

FaultyUpstream::FaultyUpstream(const Mode& mode, FaultyUpstreamOptions options)
    : options_(std::move(options)),
      stop_fd_(check(::eventfd(0, EFD_CLOEXEC), "eventfd")),
      listener_(bind_socket(SOCK_STREAM | SOCK_NONBLOCK, options_.port, options_.host)),
      mode_(mode),
      random_(options_.seed) {
  check(::listen(listener_.fd.get(), 4096), "listen");
  acceptor_ = std::thread([this] { accept_until_stopped(); });
}

FaultyUpstream::~FaultyUpstream() {
  ::eventfd_write(stop_fd_.get(), 1);
  acceptor_.join();
}

std::string FaultyUpstream::url() const {
  return "http://" + options_.host + ":" + std::to_string(port());
}

void FaultyUpstream::set_mode(const Mode& mode) {
  const std::lock_guard lock(mutex_);
  mode_ = mode;
  ++mode_version_;
}

std::vector<std::string> FaultyUpstream::requests() const {
  const std::lock_guard lock(mutex_);
  return {requests_.begin(), requests_.end()};
}

void FaultyUpstream::choose_mode(Session& session) {
  if (session.mode_version == mode_version_) return;
  session.mode_version = mode_version_;
  session.mode = mode_.name == kRandom.name ? modes()[random_() % modes().size()] : mode_;
}

void FaultyUpstream::accept_until_stopped() {
  while (true) {
    std::array<pollfd, 2> polled{{{listener_.fd.get(), POLLIN, 0}, {stop_fd_.get(), POLLIN, 0}}};
    if (::poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[1].revents != 0) break;

    sessions_.remove_if([](Session& session) {
      if (!session.done) return false;
      session.thread.join();
      return true;
    });
    UniqueFd fd(::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) {
      // Out of file descriptors, most likely: the listener stays readable, so don't spin on it.
      if (errno != EAGAIN && errno != ECONNABORTED) ::poll(&polled[1], 1, 10);
      continue;
    }
    const int one = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

    Session& session = sessions_.emplace_back();
    session.fd = std::move(fd);
    {
      const std::lock_guard lock(mutex_);
      choose_mode(session);
    }
    const auto number = ++accepted_;
    ++open_;
    if (options_.on_connection) options_.on_connection(number, session.mode);
    session.thread = std::thread([this, &session] { serve(session); });
  }
  listener_.fd.reset();
  for (auto& session : sessions_) session.thread.join();
}

void FaultyUpstream::serve(Session& session) {
  Peer peer{session.fd.get(), stop_fd_.get()};
  bool first = true;
  while (true) {
    if (!std::exchange(first, false)) {
      if (peer.buffer.empty() && !peer.wait(POLLIN)) break;
      const std::lock_guard lock(mutex_);
      choose_mode(session);
    }
    std::string head;
    if (!session.mode.bytes.starts_with("$-")) {
      head = peer.request();
      if (head.empty()) break;
      const std::lock_guard lock(mutex_);
      if (requests_.size() == kMaxRequests) requests_.pop_front();
      requests_.push_back(head);
    }
    if (!peer.answer(session.mode, msg_of(head))) break;
  }
  session.fd.reset();
  --open_;
  session.done = true;
}

}  // namespace tests
