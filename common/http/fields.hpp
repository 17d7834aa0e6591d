#pragma once

#include <algorithm>
#include <string_view>

/// What request heads and response heads have in common: tokens and field lines (RFC 9110, section
/// 5).
namespace common::http {

/// One field line; the views point into the bytes that were parsed.
struct Field {
  std::string_view name;
  std::string_view value;  ///< without the white space around it
};

// Of ASCII, whatever the locale.
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
constexpr bool is_alnum(char c) {
  return is_digit(c) || (to_lower(c) >= 'a' && to_lower(c) <= 'z');
}

/// tchar (RFC 9110, section 5.6.2).
inline bool is_token_char(char c) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return is_alnum(c) || kMarks.find(c) != std::string_view::npos;
}

inline bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return to_lower(x) == to_lower(y); });
}

inline std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Whether a line, cut off before its LF, ends in CRLF and holds no other CR: a bare LF or a bare
/// CR is what readers disagree on (RFC 9112, section 2.2).
inline bool ends_in_crlf(std::string_view line) {
  return line.ends_with('\r') && line.find('\r') == line.size() - 1;
}

/// What the Connection fields of a head say about the connection (RFC 9112, section 9.3).
struct Persistence {
  bool close = false;
  bool keep_alive = false;

  /// The value of one of them, a list (RFC 9110, section 5.6.1).
  void take(std::string_view list) {
    while (!list.empty()) {
      const auto end = std::min(list.find(','), list.size());
      const auto option = trim(list.substr(0, end));
      close = close || equal_ignoring_case(option, "close");
      keep_alive = keep_alive || equal_ignoring_case(option, "keep-alive");
      list.remove_prefix(std::min(end + 1, list.size()));
    }
  }
  bool keeps(bool http_1_0) const { return !close && (keep_alive || !http_1_0); }
};

/// Splits a field line, without its CRLF. Returns what is wrong with it, or nullptr.
inline const char* parse_field(std::string_view line, Field& field) {
  // RFC 9112, section 5.2: obs-fold.
  if (line.front() == ' ' || line.front() == '\t') return "folded header lines are not accepted";
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return "a header line has no colon";
  // RFC 9112, section 5.1: no white space between name and colon; it is no token character.
  field.name = line.substr(0, colon);
  if (!is_token(field.name)) return "a header name is not a token";
  field.value = trim(line.substr(colon + 1));
  // RFC 9110, section 5.5: field-vchar, SP and HTAB; obs-text is let through.
  const auto is_control = [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f;
  };
  if (std::any_of(field.value.begin(), field.value.end(), is_control)) {
    return "a header value holds a control character";
  }
  return nullptr;
}

}  // namespace common::http
