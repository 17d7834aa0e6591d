#include "common/http/request_head.hpp"

#include <optional>

namespace common::http {
namespace {

// RFC 9110, section 7.2, and RFC 3986, section 3.2.2: a name or address, and perhaps ":" digits. No
// user, and no comma, though the grammar has it: joined lines look like that.
bool is_host_and_port(std::string_view text) {
  const bool bracketed = text.starts_with('[');
  const auto end = std::min(bracketed ? text.find(']') : text.find(':'), text.size());
  constexpr std::string_view kMarks = "-._~%!$&'()*+;=";
  const auto is_name = [&](char c) {
    return is_alnum(c) ||
           (bracketed ? c == ':' || c == '.' : kMarks.find(c) != std::string_view::npos);
  };
  if (bracketed && end == text.size()) return false;
  const auto name = text.substr(bracketed, end - bracketed);
  const auto rest = text.substr(end + bracketed);
  return std::all_of(name.begin(), name.end(), is_name) &&
         (rest.empty() ||
          (rest.front() == ':' && std::all_of(rest.begin() + 1, rest.end(), is_digit)));
}

// "Transfer_Encoding", "Transfer--Encoding" and the like. Gateways fold the marks in names together
// (RFC 3875, section 4.1.18), and would see a body where we see none.
bool looks_like_framing(std::string_view name) {
  const auto spells = [&](std::string_view wanted) {
    for (const char c : name) {
      if (!is_alnum(c)) continue;
      if (wanted.empty() || to_lower(c) != wanted.front()) return false;
      wanted.remove_prefix(1);
    }
    return wanted.empty();
  };
  return spells("contentlength") || spells("transferencoding");
}

struct RequestParser {
  RequestHead head;

  Refusal refuse(int status, const char* error) const {
    return {status, error, head.method, head.path};
  }

  // RFC 9112, section 3.2: origin-form, absolute-form, and "*" for OPTIONS.
  std::optional<Refusal> parse_target(std::string_view target) {
    for (const char c : target) {
      // RFC 9112, section 3.2: no white space or control character; a fragment is never sent. Bytes
      // above 0x7f are not in the grammar, but curl sends what one types, and no two readers
      // differ.
      if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f || c == '#') {
        return refuse(400, "the request target holds a character that must be escaped");
      }
    }
    const auto scheme = std::min(target.find("://"), target.size());
    const bool absolute =
        scheme < target.size() && (equal_ignoring_case(target.substr(0, scheme), "http") ||
                                   equal_ignoring_case(target.substr(0, scheme), "https"));
    if (absolute) {
      target.remove_prefix(scheme + 3);
      const auto path = std::min(target.find_first_of("/?"), target.size());
      // RFC 9110, sections 4.2.1 and 4.2.4: a host, and no user.
      if (path == 0 || !is_host_and_port(target.substr(0, path))) {
        return refuse(400, "the request target has no host");
      }
      target.remove_prefix(path);
    }
    const auto mark = std::min(target.find('?'), target.size());
    head.path = target.substr(0, mark);
    // RFC 9110, section 4.2.3: "http://host" and "http://host?query" have the path "/".
    if (absolute && head.path.empty()) head.path = "/";
    if (mark < target.size()) head.query = target.substr(mark + 1);
    if (head.path.starts_with('/') || (target == "*" && head.method == "OPTIONS")) return {};
    return refuse(400, "the request target is not a path");
  }

  // RFC 9112, section 3: method SP request-target SP HTTP-version, single spaces.
  std::optional<Refusal> parse_request_line(std::string_view line) {
    const auto first = line.find(' ');
    const auto second = first == std::string_view::npos ? first : line.find(' ', first + 1);
    if (second == std::string_view::npos || line.find(' ', second + 1) != std::string_view::npos) {
      return refuse(400, "the request line is not 'method target version'");
    }
    if (first == 0) return refuse(400, "the method is missing");
    const auto version = line.substr(second + 1);
    // RFC 9112, section 2.3: the name is case-sensitive, and both numbers are single digits.
    if (version.size() != 8 || !version.starts_with("HTTP/") || !is_digit(version[5]) ||
        version[6] != '.' || !is_digit(version[7])) {
      return refuse(400, "the HTTP version is malformed");
    }
    if (version != "HTTP/1.1" && version != "HTTP/1.0") {
      return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    }
    head.http_1_0 = version == "HTTP/1.0";
    return parse_target(line.substr(first + 1, second - first - 1));
  }

  std::optional<Refusal> check_fields() {
    int hosts = 0;
    std::optional<std::string_view> length;
    bool chunked = false;
    Persistence persistence;
    for (const auto& [name, value] : head.fields) {
      if (equal_ignoring_case(name, "host")) {
        ++hosts;
        // RFC 9112, section 3.2. It may be empty.
        if (!is_host_and_port(value)) return refuse(400, "Host is not a host");
      } else if (equal_ignoring_case(name, "content-length")) {
        // RFC 9112, section 6.3, item 5: even equal copies and lists are refused.
        if (length) return refuse(400, "more than one Content-Length");
        if (value.empty() || value.size() > 18 ||
            !std::all_of(value.begin(), value.end(), is_digit)) {
          return refuse(400, "Content-Length is not a plain number");
        }
        length = value;
      } else if (equal_ignoring_case(name, "transfer-encoding")) {
        // RFC 9112, section 6.1: chunked must be the last coding; other codings are not known here.
        if (chunked || !equal_ignoring_case(value, "chunked")) {
          return refuse(400, "Transfer-Encoding is not 'chunked'");
        }
        chunked = true;
      } else if (looks_like_framing(name)) {
        return refuse(400, "a header name looks like a framing header but is none");
      } else if (equal_ignoring_case(name, "connection")) {
        persistence.take(value);
      }
    }
    // RFC 9112, section 3.2: exactly one Host in 1.1; two are as ambiguous in 1.0.
    if (hosts > 1 || (hosts == 0 && !head.http_1_0)) {
      return refuse(400, hosts > 1 ? "more than one Host" : "the Host header is missing");
    }
    // RFC 9112, section 6.1: the mark of request smuggling; and 1.0 knows no Transfer-Encoding.
    if (chunked && length) return refuse(400, "both Transfer-Encoding and Content-Length");
    if (chunked && head.http_1_0) return refuse(400, "Transfer-Encoding in HTTP/1.0");
    const bool has_body =
        chunked || (length && length->find_first_not_of('0') != std::string_view::npos);
    // RFC 9110, section 9.3.1: a body of a GET has no meaning, and is a way to smuggle.
    if (has_body && (head.method == "GET" || head.method == "HEAD")) {
      return refuse(400, "a GET or HEAD request must not have a body");
    }
    head.keep_alive = persistence.keeps(head.http_1_0);
    return {};
  }
};

}  // namespace

std::string_view RequestHead::only(std::string_view name) const {
  std::string_view found;
  int count = 0;
  for (const auto& field : fields) {
    if (!equal_ignoring_case(field.name, name)) continue;
    found = field.value;
    ++count;
  }
  return count == 1 ? found : std::string_view();
}

std::string RequestHead::list(std::string_view name) const {
  std::string joined;
  for (const auto& field : fields) {
    if (!equal_ignoring_case(field.name, name)) continue;
    if (!joined.empty()) joined += ',';
    joined += field.value;
  }
  return joined;
}

std::variant<IncompleteHead, RequestHead, Refusal> parse_request_head(std::string_view bytes) {
  RequestParser parser;
  std::size_t position = 0;
  bool has_request_line = false;
  // RFC 9112, section 2.2: one empty line before the request line is ignored.
  if (bytes.starts_with("\r\n")) position = 2;
  const std::size_t line_start = position;

  // RFC 9110, section 9.1. Refused at the first byte that is none of a method's: who speaks TLS,
  // say, sends no line end, and waits for an answer.
  const auto start = bytes.substr(bytes == "\r" ? 1 : line_start, kMaxRequestLine + 1);
  const auto method = start.substr(0, start.find(' '));
  if (!std::all_of(method.begin(), method.end(), is_token_char)) {
    return parser.refuse(400, "the method is not a token");
  }
  // Whatever is wrong with the rest: the answer to HEAD has no body.
  if (method.size() < start.size()) parser.head.method = method;

  for (;;) {
    const auto end = bytes.find('\n', position);
    const bool complete = end != std::string_view::npos;
    const auto line = bytes.substr(position, complete ? end - position : end);
    // Complete or not, what is too long is refused now: its end may never come.
    if (!has_request_line && line.size() > kMaxRequestLine + line.ends_with('\r')) {
      return parser.refuse(414, "the request line is longer than 8192 bytes");
    }
    if ((complete ? end + 1 : bytes.size()) - line_start > kMaxRequestHead) {
      return parser.refuse(431, "the request head is longer than 16384 bytes");
    }
    if (!complete) return IncompleteHead{};
    if (!ends_in_crlf(line)) return parser.refuse(400, "a line does not end in CRLF");
    const auto text = line.substr(0, line.size() - 1);
    position = end + 1;

    if (!has_request_line) {
      if (const auto refusal = parser.parse_request_line(text)) return *refusal;
      has_request_line = true;
    } else if (text.empty()) {
      parser.head.size = position;
      if (const auto refusal = parser.check_fields()) return *refusal;
      return std::move(parser.head);
    } else if (parser.head.fields.size() == kMaxRequestFields) {
      return parser.refuse(431, "the request has more than 100 header fields");
    } else if (const char* error = parse_field(text, parser.head.fields.emplace_back())) {
      return parser.refuse(400, error);
    }
  }
}

}  // namespace common::http
