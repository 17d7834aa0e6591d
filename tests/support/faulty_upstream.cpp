#include "support/faulty_upstream.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <stdexcept>

namespace tests {

// What a mode can do to the caller. Each wait ends at once when the upstream stops; every step
// returns false when the connection cannot go on, so that a mode is a chain of && that ends by
// itself.
class Peer {
 public:
  using Record = std::function<void(const std::string& head)>;

  Peer(UniqueFd& fd, int stop_fd, Record record)
      : fd_(fd), stop_fd_(stop_fd), record_(std::move(record)) {}

  // Reads the next request head, and takes path() and msg() from it.
  bool request();
  const std::string& path() const { return path_; }
  const std::string& msg() const { return msg_; }

  bool send(std::string_view bytes);
  // A byte each `interval`, then goes on with `again` for ever if it is not empty.
  bool drip(std::string_view bytes, std::chrono::milliseconds interval,
            std::string_view again = {});
  // `block` for as long as the caller takes it.
  bool flood(std::string_view block);
  bool pause(std::chrono::milliseconds time);
  // Waits until the caller closes. Always false.
  bool hold();
  // Always false: the connection ends with a reset.
  bool reset();
  // Whether there is something to read, waiting for it.
  bool wait_for_input();

 private:
  // False when stopped, or nothing happened until `timeout` (-1: none) is over.
  bool wait(short events, int timeout);

  UniqueFd& fd_;
  int stop_fd_;
  Record record_;
  std::string buffer_;
  std::string path_;
  std::string msg_;
};

namespace {

using std::chrono::milliseconds;

constexpr std::size_t kBodyLimit = 64 * 1024;  // what B accepts
constexpr std::size_t kMaxRequests = 10'000;
constexpr std::size_t kMaxHead = 1 << 20;
constexpr milliseconds kDrip{100};   // often enough for a timeout that starts anew with each read
constexpr milliseconds kLate{3000};  // well over B's budget

// --- the request ---

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string form_decode(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      result += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      result += text[i] == '+' ? ' ' : text[i];
    }
  }
  return result;
}

// The first `msg` of the target's query, decoded.
std::string msg_of(std::string_view target) {
  const auto question = target.find('?');
  if (question == std::string_view::npos) return {};
  auto query = target.substr(question + 1);
  while (!query.empty()) {
    const auto pair = query.substr(0, query.find('&'));
    if (pair.substr(0, pair.find('=')) == "msg") {
      return pair.size() > 4 ? form_decode(pair.substr(4)) : "";
    }
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
  }
  return {};
}

// --- parts of answers ---

constexpr std::string_view kOk = "HTTP/1.1 200 OK";
constexpr std::string_view kJsonType = "Content-Type: application/json\r\n";

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The right body for `msg`.
std::string echo(const std::string& msg) { return R"({"echo":)" + quoted(msg) + "}\n"; }

std::string length_field(std::size_t length) {
  return "Content-Length: " + std::to_string(length) + "\r\n";
}

// An answer whose framing is right. `fields` are complete lines.
std::string answer(const std::string& body, std::string_view status_line = kOk,
                   std::string_view fields = "") {
  return std::string(status_line) + "\r\n" + std::string(kJsonType) + length_field(body.size()) +
         std::string(fields) + "\r\n" + body;
}

// A head with exactly these fields.
std::string head(std::string_view fields, std::string_view status_line = kOk) {
  return std::string(status_line) + "\r\n" + std::string(kJsonType) + std::string(fields) + "\r\n";
}

std::string chunked_head() { return head("Transfer-Encoding: chunked\r\n"); }

std::string chunk(std::string_view data, std::string_view extension = "") {
  std::array<char, 16> size{};
  const auto end = std::to_chars(size.data(), size.data() + size.size(), data.size(), 16).ptr;
  return std::string(size.data(), end) + std::string(extension) + "\r\n" + std::string(data) +
         "\r\n";
}

constexpr std::string_view kLastChunk = "0\r\n\r\n";

// A right body of exactly `size` bytes, filled up by a second key.
std::string padded_echo(const std::string& msg, std::size_t size) {
  const std::string start = R"({"echo":)" + quoted(msg) + R"(,"padding":")";
  const std::string end = "\"}\n";
  const auto used = start.size() + end.size();
  return start + std::string(size > used ? size - used : 0, 'x') + end;
}

std::string repeated(std::string_view text, std::size_t at_least) {
  std::string result;
  while (result.size() < at_least) result += text;
  return result;
}

// Every character of `text` as a JSON escape, for which it must be UTF-8: done by way of the
// escapes that nlohmann writes for all that is not ASCII.
std::string all_escaped(const std::string& text) {
  const auto ascii =
      nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  std::string result = "\"";
  for (std::size_t i = 1; i + 1 < ascii.size(); ++i) {
    if (ascii[i] == '\\') {  // an escape already: take it whole
      const std::size_t length = ascii[i + 1] == 'u' ? 6 : 2;
      result += ascii.substr(i, length);
      i += length - 1;
    } else {
      constexpr std::string_view kHex = "0123456789abcdef";
      const auto byte = static_cast<unsigned char>(ascii[i]);
      result += "\\u00";
      result += kHex[byte >> 4U];
      result += kHex[byte & 15U];
    }
  }
  return result + "\"";
}

// `text` with each ASCII letter in the other case; never `text` itself.
std::string other_case(std::string text) {
  const std::string before = text;
  for (char& c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) c = static_cast<char>(c ^ 0x20);
  }
  return text == before ? text + "X" : text;
}

std::string binary_junk() {
  std::string result;
  std::mt19937 random(7);
  for (int i = 0; i < 512; ++i) result += static_cast<char>(random() & 0xFFU);
  return result + "\r\n\r\n";
}

// --- the shapes that many modes share ---

bool right(Peer& p) {
  if (!p.request()) return false;
  if (p.path() == "/echo") return p.send(answer(echo(p.msg())));
  if (p.path() == "/health") return p.send(answer("{\"status\":\"ok\"}\n"));
  return p.send(answer("{\"error\":\"not found\"}\n", "HTTP/1.1 404 Not Found"));
}

// The right body, and nothing wrong but the status: a caller that only looks at the body is fooled.
bool with_status(Peer& p, std::string_view status_line, std::string_view fields = "") {
  return p.request() && p.send(answer(echo(p.msg()), status_line, fields));
}

bool redirect(Peer& p, std::string_view status_line) {
  return p.request() &&
         p.send(answer(echo(p.msg()), status_line, "Location: " + p.path() + "\r\n"));
}

bool with_body(Peer& p, const std::string& body) { return p.request() && p.send(answer(body)); }

// Sends something that a caller must see through without waiting for the close.
bool then_hold(Peer& p, const std::string& bytes) { return p.send(bytes) && p.hold(); }

bool then_close(Peer& p, const std::string& bytes) {
  p.send(bytes);
  return false;
}

constexpr std::string_view kTimeout = "timeout";
constexpr std::string_view kClosed = "connection_closed";
constexpr std::string_view kBadStatus = "bad_status";
constexpr std::string_view kBadResponse = "bad_response";

// Laid out by hand: clang-format 14 leaves a table with lambdas as it is, long lines included.
// clang-format off
constexpr Mode kModes[] = {
    // Right answers, some of them unusual.
    {"right", "a correct Service A, keep-alive", 200, "", 0, right},
    {"right-no-reason", "right, status line without a reason phrase", 200, "", 0,
     [](Peer& p) { return with_status(p, "HTTP/1.1 200 "); }},
    {"right-no-reason-no-space", "right, status line ends after the number", 200, "", 0,
     [](Peer& p) { return with_status(p, "HTTP/1.1 200"); }},
    {"right-other-json", "right, other key order, white space, all escaped, text/html", 200, "", 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = "\r\n{ \"x\" : [1, {\"echo\": 2}],\n\t\"echo\" : " +
                         all_escaped(p.msg()) + " }  \n";
       return p.send("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" +
                     length_field(body.size()) + "\r\n" + body);
     }},
    {"right-other-head", "right, field names in lower and upper case, odd white space, many fields",
     200, "", 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       std::string fields = "content-type:application/json\r\nX-EMPTY:\r\n";
       for (int i = 0; i < 40; ++i) fields += "X-Field-" + std::to_string(i) + ": \t value \t \r\n";
       return p.send("HTTP/1.1 200 Fine, thanks: \xC3\xA9\r\n" + fields + "cOnTeNt-LeNgTh: \t" +
                     std::to_string(body.size()) + " \r\n\r\n" + body);
     }},
    {"right-close", "right, with Connection: close, and closes", 200, "", 0,
     [](Peer& p) {
       return p.request() && then_close(p, answer(echo(p.msg()), kOk, "Connection: close\r\n"));
     }},
    {"right-then-close", "right, as if kept alive, then closes without a word", 200, "", 0,
     [](Peer& p) { return p.request() && then_close(p, answer(echo(p.msg()))); }},
    {"right-then-reset", "right, as if kept alive, then resets 20 ms later", 200, "", 0,
     [](Peer& p) {
       return p.request() &&
              p.send(answer(echo(p.msg()))) && p.pause(milliseconds(20)) && p.reset();
     }},
    {"right-http10", "right, HTTP/1.0, no length, body until close", 200, "", 0,
     [](Peer& p) {
       return p.request() && then_close(p, head("", "HTTP/1.0 200 OK") + echo(p.msg()));
     }},
    {"right-until-close", "right, HTTP/1.1, no length, body until close", 200, "", 0,
     [](Peer& p) { return p.request() && then_close(p, head("") + echo(p.msg())); }},
    {"right-chunked", "right, as one chunk", 200, "", 0,
     [](Peer& p) {
       return p.request() &&
              p.send(chunked_head() + chunk(echo(p.msg())) + std::string(kLastChunk));
     }},
    {"right-small-chunks", "right, as chunks of one byte, each a segment of its own", 200, "", 0,
     [](Peer& p) {
       if (!p.request() || !p.send(chunked_head())) return false;
       for (const char c : echo(p.msg())) {
         if (!p.send(chunk(std::string(1, c)))) return false;
       }
       return p.send(kLastChunk);
     }},
    {"right-chunk-extras", "right, chunked, with chunk extensions and trailers", 200, "", 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return p.send(chunked_head() + chunk(body.substr(0, 3), ";name=value;other=\"a b\"") +
                     chunk(body.substr(3), ";x") +
                     "000;last\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n");
     }},
    {"right-segments", "right, each byte a segment of its own, without delay", 200, "", 0,
     [](Peer& p) { return p.request() && p.drip(answer(echo(p.msg())), milliseconds(0)); }},
    {"right-late-body", "right, the body 50 ms after the head", 200, "", 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return p.send(head(length_field(body.size()))) && p.pause(milliseconds(50)) && p.send(body);
     }},
    {"right-100", "100 Continue, then the right answer", 200, "", 0,
     [](Peer& p) {
       return p.request() && p.send("HTTP/1.1 100 Continue\r\n\r\n" + answer(echo(p.msg())));
     }},
    {"right-103", "103 Early Hints twice, then the right answer", 200, "", 0,
     [](Peer& p) {
       const std::string hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
       return p.request() && p.send(hints) && p.send(hints + answer(echo(p.msg())));
     }},
    {"right-64k", "right, a body of exactly 65,536 bytes", 200, "", 0,
     [](Peer& p) { return p.request() && p.send(answer(padded_echo(p.msg(), kBodyLimit))); }},
    {"right-leftover", "right, followed at once by a second, wrong answer nobody asked for",
     200, "", 0,
     [](Peer& p) {
       return p.request() && p.send(answer(echo(p.msg())) + answer(echo("leftover")));
     }},
    {"right-leftover-bytes", "right, followed at once by bytes that are not HTTP", 200, "", 0,
     [](Peer& p) { return p.request() && p.send(answer(echo(p.msg())) + "\r\njunk"); }},

    // Too slow.
    {"silent", "reads the request, never answers", 503, kTimeout, 0,
     [](Peer& p) { return p.request() && p.hold(); }},
    {"never-read", "accepts, never reads, never answers", 503, kTimeout, 0,
     [](Peer& p) { return p.hold(); }},
    {"slow-head", "the right answer, 3 s late", 503, kTimeout, 0,
     [](Peer& p) { return p.request() && p.pause(kLate) && p.send(answer(echo(p.msg()))); }},
    {"slow-body", "the head at once, the right body 3 s late", 503, kTimeout, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return p.send(head(length_field(body.size()))) && p.pause(kLate) && p.send(body);
     }},
    {"half-body", "the head and half of the body, then nothing", 503, kTimeout, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto all = answer(echo(p.msg()));
       return then_hold(p, all.substr(0, all.size() - 4));
     }},
    {"no-close", "right, but no length and never closed: no end of the body", 503, kTimeout, 0,
     [](Peer& p) { return p.request() && then_hold(p, head("") + echo(p.msg())); }},
    {"dripped-head", "an endless head, a byte each 100 ms", 503, kTimeout, 0,
     [](Peer& p) { return p.request() && p.drip("HTTP/1.1 200 OK\r\nX-Drip: ", kDrip, "x"); }},
    {"dripped-fields", "a complete field each 100 ms, for ever", 503, kTimeout, 0,
     [](Peer& p) {
       if (!p.request() || !p.send("HTTP/1.1 200 OK\r\n")) return false;
       while (p.send("X-Drip: x\r\n") && p.pause(kDrip)) {}
       return false;
     }},
    {"dripped-body", "head at once, then a byte of a body of 1,000 each 100 ms", 503, kTimeout, 0,
     [](Peer& p) {
       return p.request() && p.send(head(length_field(1000))) &&
              p.drip(padded_echo(p.msg(), 1000), kDrip) && p.hold();
     }},
    {"fast-dripped-body", "head at once, then a byte of an endless body each 1 ms",
     503, kTimeout, 0,
     [](Peer& p) {
       return p.request() && p.send(head("")) && p.drip(echo(p.msg()), milliseconds(1), " ");
     }},
    {"dripped-chunks", "endless chunks of one byte, a byte of their framing each 100 ms",
     503, kTimeout, 0,
     [](Peer& p) {
       return p.request() && p.send(chunked_head()) && p.drip("", kDrip, "1\r\n \r\n");
     }},
    {"dripped-trailers", "a right chunked body, then endless trailers, a byte each 100 ms",
     503, kTimeout, 0,
     [](Peer& p) {
       return p.request() && p.send(chunked_head() + chunk(echo(p.msg())) + "0\r\n") &&
              p.drip("", kDrip, "X-Trailer: x\r\n");
     }},
    {"dripped-trailers-behind-small-chunks",
     "20,000 chunks of one byte at once, then endless trailers, a byte each 1 ms",
     503, kTimeout, 0,
     [](Peer& p) {
       std::string body;
       for (int i = 0; i < 20'000; ++i) body += chunk(" ");
       return p.request() && p.send(chunked_head() + body + chunk(echo(p.msg())) + "0\r\n") &&
              p.drip("", milliseconds(1), "X-Trailer: x\r\n");
     }},
    {"dripped-100", "a 100 Continue each 100 ms, for ever", 503, kTimeout, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       while (p.send("HTTP/1.1 100 Continue\r\n\r\n") && p.pause(kDrip)) {}
       return false;
     }},

    // Gone before the answer was complete.
    {"reset-on-accept", "resets each connection as it comes", 503, kClosed, 0,
     [](Peer& p) { return p.reset(); }},
    {"reset-after-request", "reads the request, then resets", 503, kClosed, 0,
     [](Peer& p) { return p.request() && p.reset(); }},
    {"close-on-accept", "closes each connection as it comes", 503, kClosed, 0,
     [](Peer&) { return false; }},
    {"close-after-request", "reads the request, then closes", 503, kClosed, 0,
     [](Peer& p) { p.request(); return false; }},
    {"cut-in-status-line", "closes in the middle of the status line", 503, kClosed, 0,
     [](Peer& p) { return p.request() && then_close(p, "HTTP/1.1 20"); }},
    {"cut-in-head", "closes in the middle of the head", 503, kClosed, 0,
     [](Peer& p) {
       return p.request() && then_close(p, "HTTP/1.1 200 OK\r\nContent-Type: applic");
     }},
    {"cut-before-body", "closes after the head", 503, kClosed, 0,
     [](Peer& p) {
       return p.request() && then_close(p, head(length_field(echo(p.msg()).size())));
     }},
    {"cut-in-body", "closes in the middle of the body", 503, kClosed, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto all = answer(echo(p.msg()));
       return then_close(p, all.substr(0, all.size() - 4));
     }},
    {"truncated", "a whole right body, but Content-Length says 10 more; closes", 503, kClosed, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return then_close(p, head(length_field(body.size() + 10)) + body);
     }},
    {"truncated-chunked", "a whole right body, but no last chunk; closes", 503, kClosed, 0,
     [](Peer& p) { return p.request() && then_close(p, chunked_head() + chunk(echo(p.msg()))); }},
    {"truncated-chunk", "closes in the middle of a chunk", 503, kClosed, 0,
     [](Peer& p) {
       return p.request() && then_close(p, chunked_head() + "ff\r\n" + echo(p.msg()));
     }},
    {"truncated-last-chunk", "closes within the last chunk", 503, kClosed, 0,
     [](Peer& p) {
       return p.request() && then_close(p, chunked_head() + chunk(echo(p.msg())) + "0\r\n");
     }},
    {"reset-in-body", "sends the head and half of the body, then resets", 503, kClosed, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto all = answer(echo(p.msg()));
       return p.send(all.substr(0, all.size() - 4)) && p.pause(milliseconds(20)) && p.reset();
     }},
    {"reset-until-close", "a right body without a length, ended by a reset", 503, kClosed, 0,
     [](Peer& p) {
       return p.request() &&
              p.send(head("") + echo(p.msg())) && p.pause(milliseconds(20)) && p.reset();
     }},
    {"close-after-103", "103 Early Hints, then closes", 503, kClosed, 0,
     [](Peer& p) { return p.request() && then_close(p, "HTTP/1.1 103 Early Hints\r\n\r\n"); }},

    // A well-formed answer with another status.
    {"status-101", "101 Switching Protocols", 503, kBadStatus, 101,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n"
                           "Connection: Upgrade\r\n\r\n");
     }},
    {"status-201", "201 with the right body", 503, kBadStatus, 201,
     [](Peer& p) { return with_status(p, "HTTP/1.1 201 Created"); }},
    {"status-204", "204, no body", 503, kBadStatus, 204,
     [](Peer& p) { return p.request() && p.send("HTTP/1.1 204 No Content\r\n\r\n"); }},
    {"status-206", "206 with the right body", 503, kBadStatus, 206,
     [](Peer& p) { return with_status(p, "HTTP/1.1 206 Partial Content"); }},
    {"status-301", "301 to itself", 503, kBadStatus, 301,
     [](Peer& p) { return redirect(p, "HTTP/1.1 301 Moved Permanently"); }},
    {"status-302", "302 to itself", 503, kBadStatus, 302,
     [](Peer& p) { return redirect(p, "HTTP/1.1 302 Found"); }},
    {"status-304", "304, no body", 503, kBadStatus, 304,
     [](Peer& p) {
       return p.request() && p.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n");
     }},
    {"status-307", "307 to itself", 503, kBadStatus, 307,
     [](Peer& p) { return redirect(p, "HTTP/1.1 307 Temporary Redirect"); }},
    {"status-400", "400", 503, kBadStatus, 400,
     [](Peer& p) { return with_status(p, "HTTP/1.1 400 Bad Request"); }},
    {"status-401", "401 with WWW-Authenticate", 503, kBadStatus, 401,
     [](Peer& p) {
       return with_status(p, "HTTP/1.1 401 Unauthorized",
                          "WWW-Authenticate: Basic realm=\"a\"\r\n");
     }},
    {"status-404", "404", 503, kBadStatus, 404,
     [](Peer& p) { return with_status(p, "HTTP/1.1 404 Not Found"); }},
    {"status-418", "418", 503, kBadStatus, 418,
     [](Peer& p) { return with_status(p, "HTTP/1.1 418 I'm a teapot"); }},
    {"status-500", "500", 503, kBadStatus, 500,
     [](Peer& p) { return with_status(p, "HTTP/1.1 500 Internal Server Error"); }},
    {"status-502", "502", 503, kBadStatus, 502,
     [](Peer& p) { return with_status(p, "HTTP/1.1 502 Bad Gateway"); }},
    {"status-503", "503 with Retry-After", 503, kBadStatus, 503,
     [](Peer& p) {
       return with_status(p, "HTTP/1.1 503 Service Unavailable", "Retry-After: 60\r\n");
     }},
    {"status-999", "999", 503, kBadStatus, 999,
     [](Peer& p) { return with_status(p, "HTTP/1.1 999 Whatever"); }},

    // Not HTTP.
    {"status-word", "a status line without a number", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, "HTTP/1.1 abc") && p.hold(); }},
    {"status-two-digits", "a status of two digits", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, "HTTP/1.1 20 OK") && p.hold(); }},
    {"status-four-digits", "a status of four digits", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, "HTTP/1.1 2000 OK") && p.hold(); }},
    {"http2-status-line", "HTTP/2.0 in the status line", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, "HTTP/2.0 200 OK") && p.hold(); }},
    {"ssh", "an SSH banner, then waits", 503, kBadResponse, 0,
     [](Peer& p) { return then_hold(p, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"); }},
    {"binary", "500 bytes of junk, then waits", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && then_hold(p, binary_junk()); }},
    {"http09", "the bare right body without a head, then closes", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && then_close(p, echo(p.msg())); }},
    {"tls-alert", "what a TLS server says to plain HTTP, then closes", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && then_close(p, std::string("\x15\x03\x03\x00\x02\x02\x46", 7));
     }},
    {"bare-lf", "a right answer with bare LF line ends", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return then_hold(p, "HTTP/1.1 200 OK\nContent-Length: " + std::to_string(body.size()) +
                               "\n\n" + body);
     }},
    {"nul-in-field", "a NUL in a field's value", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, answer(echo(p.msg()), kOk, std::string_view("X-Nul: a\0b\r\n", 12)));
     }},
    {"no-colon", "a field without a colon", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, kOk, "this is not a field\r\n") && p.hold(); }},
    {"space-before-colon", "white space before a field's colon", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, kOk, "X-Field : value\r\n") && p.hold(); }},
    {"empty-field-name", "a field without a name", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, kOk, ": value\r\n") && p.hold(); }},

    // Framing that is wrong or says two things.
    {"length-word", "Content-Length: abc", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && then_hold(p, head("Content-Length: abc\r\n") + echo(p.msg()));
     }},
    {"length-negative", "Content-Length: -5", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && then_hold(p, head("Content-Length: -5\r\n") + echo(p.msg()));
     }},
    {"length-plus", "a right Content-Length with a plus sign", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = echo(p.msg());
       return then_hold(p, head("Content-Length: +" + std::to_string(body.size()) + "\r\n") + body);
     }},
    {"length-overflow", "a Content-Length that is 1 beyond 64 bits", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, head("Content-Length: 18446744073709551617\r\n") + echo(p.msg()));
     }},
    {"length-twice", "two different Content-Lengths", 503, kBadResponse, 0,
     [](Peer& p) { return with_status(p, kOk, "Content-Length: 3\r\n") && p.hold(); }},
    {"length-and-chunked", "Content-Length and Transfer-Encoding", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = chunk(echo(p.msg())) + std::string(kLastChunk);
       const auto fields = length_field(body.size()) + "Transfer-Encoding: chunked\r\n";
       return then_hold(p, head(fields) + body);
     }},
    {"unknown-encoding", "Transfer-Encoding: banana, right body, then closes", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && then_close(p, head("Transfer-Encoding: banana\r\n") + echo(p.msg()));
     }},
    {"chunk-word", "a chunk size of \"zz\"", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, chunked_head() + "zz\r\n" + echo(p.msg()) + "\r\n0\r\n\r\n");
     }},
    {"chunk-empty-size", "a chunk without a size", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, chunked_head() + "\r\n" + echo(p.msg()) + "\r\n0\r\n\r\n");
     }},
    {"chunk-negative", "a negative chunk size", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              then_hold(p, chunked_head() + "-5\r\n" + echo(p.msg()) + "\r\n0\r\n\r\n");
     }},
    {"chunk-huge", "a chunk size of 2^63 - 1", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && then_hold(p, chunked_head() + "7fffffffffffffff\r\n" + echo(p.msg()));
     }},
    {"chunk-overflow", "a right chunk whose size has a 65th bit set", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto data = chunk(echo(p.msg()));
       const auto digits = data.find("\r\n");
       return then_hold(p, chunked_head() + "1" + std::string(16 - digits, '0') + data +
                               std::string(kLastChunk));
     }},
    {"chunk-no-crlf", "no CRLF after a chunk's data", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       auto data = chunk(echo(p.msg()));
       data.resize(data.size() - 2);
       return then_hold(p, chunked_head() + data + "XX" + std::string(kLastChunk));
     }},
    {"gzip", "Content-Encoding: gzip, which was not asked for, and garbage", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              p.send(answer("\x1f\x8b\x08garbage", kOk, "Content-Encoding: gzip\r\n"));
     }},

    // Too much.
    {"endless-status-line", "a status line that never ends, at full speed", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send("HTTP/1.1 200 ") && p.flood(std::string(16384, 'x'));
     }},
    {"endless-field", "a field that never ends, at full speed", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              p.send("HTTP/1.1 200 OK\r\nX-Long: ") && p.flood(std::string(16384, 'x'));
     }},
    {"endless-head", "fields for ever, at full speed", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              p.send("HTTP/1.1 200 OK\r\n") && p.flood(repeated("X-More: x\r\n", 16384));
     }},
    {"endless-100", "100 Continue for ever, at full speed", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.flood(repeated("HTTP/1.1 100 Continue\r\n\r\n", 16384));
     }},
    {"endless-body", "right JSON and white space for ever, no length, at full speed",
     503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send(head("") + echo(p.msg())) && p.flood(std::string(16384, ' '));
     }},
    {"endless-chunks", "right JSON and white space for ever, chunked, at full speed",
     503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              p.send(chunked_head() + chunk(echo(p.msg()))) &&
              p.flood(chunk(std::string(4096, ' ')));
     }},
    {"endless-chunk-extension", "a chunk extension that never ends, at full speed",
     503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send(chunked_head() + "1;x=") && p.flood(std::string(16384, 'x'));
     }},
    {"endless-small-chunks", "chunks of one byte with extensions of 4 KiB, at full speed",
     503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send(chunked_head()) &&
              p.flood("1;x=" + std::string(4096, 'x') + "\r\n \r\n");
     }},
    {"endless-trailers", "a right chunked body, then trailers for ever, at full speed",
     503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send(chunked_head() + chunk(echo(p.msg())) + "0\r\n") &&
              p.flood(repeated("X-Trailer: x\r\n", 16384));
     }},
    {"huge", "Content-Length of 1 GiB, and sends it", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() && p.send(head(length_field(std::size_t{1} << 30U)) + echo(p.msg())) &&
              p.flood(std::string(16384, ' '));
     }},
    {"over-64k", "right, but a body of 65,537 bytes", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(padded_echo(p.msg(), kBodyLimit + 1))); }},
    {"over-64k-chunked", "right, but a chunked body of 65,537 bytes", 503, kBadResponse, 0,
     [](Peer& p) {
       if (!p.request()) return false;
       const auto body = padded_echo(p.msg(), kBodyLimit + 1);
       return p.send(chunked_head() + chunk(body.substr(0, 1000)) + chunk(body.substr(1000)) +
                     std::string(kLastChunk));
     }},

    // Not the JSON that was asked for.
    {"not-json", "plain text", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, "hello\n"); }},
    {"html", "a page of HTML", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, "<!DOCTYPE html><html><body>It works!</body></html>\n"); }},
    {"empty", "an empty body", 503, kBadResponse, 0, [](Peer& p) { return with_body(p, ""); }},
    {"json-array", "the right object inside an array", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer("[" + echo(p.msg()) + "]")); }},
    {"json-string", "the msg as a JSON string", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(quoted(p.msg()))); }},
    {"json-number", "a JSON number",
     503, kBadResponse, 0, [](Peer& p) { return with_body(p, "42"); }},
    {"json-null", "JSON null", 503, kBadResponse, 0, [](Peer& p) { return with_body(p, "null"); }},
    {"json-cut", "JSON without its last brace, Content-Length fits", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer("{\"echo\":" + quoted(p.msg()))); }},
    {"json-junk", "the right JSON with junk after it in the body", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(echo(p.msg()) + "junk")); }},
    {"json-twice", "the right JSON twice in one body", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(echo(p.msg()) + echo(p.msg()))); }},
    {"json-invalid-utf8", "the right echo beside a string that is not UTF-8", 503, kBadResponse, 0,
     [](Peer& p) {
       return p.request() &&
              p.send(answer("{\"echo\":" + quoted(p.msg()) + ",\"x\":\"\xC3\x28\xFF\"}"));
     }},
    {"json-deep", "60,000 opening brackets", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, std::string(60'000, '[')); }},
    {"json-deep-closed", "an array 30,000 levels deep", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, std::string(30'000, '[') + std::string(30'000, ']')); }},
    {"echo-missing", "an object without echo", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, "{}\n"); }},
    {"echo-number", "echo is a number", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, "{\"echo\":1}\n"); }},
    {"echo-null", "echo is null", 503, kBadResponse, 0,
     [](Peer& p) { return with_body(p, "{\"echo\":null}\n"); }},
    {"echo-object", "the right object inside echo", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer("{\"echo\":" + echo(p.msg()) + "}")); }},
    {"echo-wrong", "the echo of another msg", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(echo("not " + p.msg()))); }},
    {"echo-other-case", "the msg in the other case", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(echo(other_case(p.msg())))); }},
    {"echo-with-nul", "the msg with a NUL and more after it", 503, kBadResponse, 0,
     [](Peer& p) { return p.request() && p.send(answer(echo(p.msg() + std::string("\0x", 2)))); }},
};
// clang-format on

constexpr Mode kRandom{"random", "one of the others, drawn anew for each connection", 0, "", 0,
                       nullptr};

}  // namespace

// --- Peer ---

bool Peer::wait(short events, int timeout) {
  const auto deadline = Clock::now() + milliseconds(timeout);
  while (true) {
    std::array<pollfd, 2> polled{{{fd_.get(), events, 0}, {stop_fd_, POLLIN, 0}}};
    const int ready =
        ::poll(polled.data(), polled.size(), timeout < 0 ? -1 : poll_timeout(deadline));
    if (ready < 0 && errno == EINTR) continue;
    return ready > 0 && polled[1].revents == 0;
  }
}

bool Peer::request() {
  std::size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (buffer_.size() > kMaxHead || !wait(POLLIN, -1)) return false;
    std::array<char, 16384> block{};
    const auto count = ::recv(fd_.get(), block.data(), block.size(), MSG_DONTWAIT);
    if (count > 0) {
      buffer_.append(block.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      return false;
    }
  }
  const std::string head = buffer_.substr(0, end + 4);
  buffer_.erase(0, end + 4);
  record_(head);

  const auto line = std::string_view(head).substr(0, head.find("\r\n"));
  const auto start = std::min(line.size(), line.find(' ') + 1);
  const auto target = line.substr(start, line.find(' ', start) - start);
  path_ = target.substr(0, target.find('?'));
  msg_ = msg_of(target);
  return true;
}

bool Peer::wait_for_input() { return !buffer_.empty() || wait(POLLIN, -1); }

bool Peer::send(std::string_view bytes) {
  while (!bytes.empty()) {
    if (!wait(POLLOUT, -1)) return false;
    const auto count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool Peer::drip(std::string_view bytes, milliseconds interval, std::string_view again) {
  do {
    for (const char& c : bytes) {
      if (!send({&c, 1})) return false;
      if (interval.count() > 0 && !pause(interval)) return false;
    }
    bytes = again;
  } while (!again.empty());
  return true;
}

bool Peer::flood(std::string_view block) {
  while (send(block)) {
  }
  return false;
}

bool Peer::pause(milliseconds time) {
  const auto deadline = Clock::now() + time;
  // Something happens only when the caller closes or all must end; otherwise the time is over.
  std::array<pollfd, 2> polled{{{fd_.get(), POLLRDHUP, 0}, {stop_fd_, POLLIN, 0}}};
  int ready = 0;
  do {
    ready = ::poll(polled.data(), polled.size(), poll_timeout(deadline));
  } while (ready < 0 && errno == EINTR);
  return ready == 0;
}

bool Peer::hold() {
  wait(POLLRDHUP, -1);
  return false;
}

bool Peer::reset() {
  const linger now{1, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  return false;
}

// --- the list ---

std::ostream& operator<<(std::ostream& out, const Mode& mode) { return out << mode.name; }

std::span<const Mode> modes() { return kModes; }

const Mode& right_mode() { return kModes[0]; }

const Mode& random_mode() { return kRandom; }

const Mode* find_mode(std::string_view name) {
  if (name == kRandom.name) return &kRandom;
  for (const Mode& mode : kModes) {
    if (mode.name == name) return &mode;
  }
  return nullptr;
}

const Mode& mode_named(std::string_view name) {
  const Mode* mode = find_mode(name);
  if (mode == nullptr) throw std::invalid_argument("no such mode: " + std::string(name));
  return *mode;
}

std::string test_name(const Mode& mode) {
  std::string name(mode.name);
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}

// --- FaultyUpstream ---

FaultyUpstream::FaultyUpstream(const Mode& mode, std::uint16_t port)
    : FaultyUpstream(mode, FaultyUpstreamOptions{.port = port}) {}

FaultyUpstream::FaultyUpstream(const Mode& mode, FaultyUpstreamOptions options)
    : options_(std::move(options)), mode_(mode), random_(options_.seed) {
  if (options_.random_from.empty()) options_.random_from.assign(modes().begin(), modes().end());

  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options_.port);
  if (::inet_pton(AF_INET, options_.host.c_str(), &address.sin_addr) != 1) {
    throw std::system_error(EINVAL, std::generic_category(),
                            "not an IPv4 address: " + options_.host);
  }
  stop_fd_ = UniqueFd(check(::eventfd(0, EFD_CLOEXEC), "eventfd"));
  listener_ =
      UniqueFd(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket"));
  const int one = 1;
  check(::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
  const std::string where = "listen on " + options_.host + ":" + std::to_string(options_.port);
  check(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
        where.c_str());
  check(::listen(listener_.get(), 4096), where.c_str());
  socklen_t size = sizeof address;
  check(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size),
        "getsockname");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_until_stopped(); });
}

FaultyUpstream::~FaultyUpstream() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_fd_.get(), &one, sizeof one);
  acceptor_.join();
}

std::string FaultyUpstream::url() const {
  return "http://" + options_.host + ":" + std::to_string(port_);
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

void FaultyUpstream::record(const std::string& head) {
  const std::lock_guard lock(mutex_);
  if (requests_.size() == kMaxRequests) requests_.pop_front();
  requests_.push_back(head);
}

Mode FaultyUpstream::draw_mode() {
  if (mode_.play != nullptr) return mode_;
  return options_.random_from[random_() % options_.random_from.size()];
}

void FaultyUpstream::accept_until_stopped() {
  while (true) {
    std::array<pollfd, 2> polled{{{listener_.get(), POLLIN, 0}, {stop_fd_.get(), POLLIN, 0}}};
    if (::poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[1].revents != 0) break;

    sessions_.remove_if([](Session& session) {
      if (!session.done) return false;
      session.thread.join();
      return true;
    });
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
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
      session.mode = draw_mode();
      session.mode_version = mode_version_;
    }
    const auto number = ++accepted_;
    ++open_;
    if (options_.on_connection) options_.on_connection(number, session.mode);
    session.thread = std::thread([this, &session] { serve(session); });
  }
  listener_.reset();
  for (auto& session : sessions_) session.thread.join();
}

void FaultyUpstream::serve(Session& session) {
  Peer peer(session.fd, stop_fd_.get(), [this](const std::string& head) { record(head); });
  while (session.mode.play(peer) && peer.wait_for_input()) {
    const std::lock_guard lock(mutex_);
    if (session.mode_version == mode_version_) continue;
    session.mode = draw_mode();
    session.mode_version = mode_version_;
  }
  session.fd.reset();
  --open_;
  session.done = true;
}

}  // namespace tests
