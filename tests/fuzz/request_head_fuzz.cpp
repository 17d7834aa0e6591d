// Any bytes: parse_request_head() neither crashes nor reads behind their end, what it accepts is in
// order, what it refuses has a status of the contract, and it matters not how the bytes are cut.

#include <algorithm>
#include <memory>
#include <random>
#include <string_view>
#include <variant>

#include "common/http/request_head.hpp"
#include "require.hpp"

namespace {

using namespace common::http;
using Verdict = std::variant<IncompleteHead, RequestHead, Refusal>;

bool is_within(std::string_view part, std::string_view whole) {
  return part.empty() || part == "/" ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

void check_head(const RequestHead& head, std::string_view bytes) {
  REQUIRE(head.size > 0 && head.size <= bytes.size());
  REQUIRE(head.size <= kMaxRequestHead + 2);
  REQUIRE(bytes.substr(0, head.size).ends_with("\r\n\r\n"));
  REQUIRE(is_token(head.method));
  REQUIRE(head.path.starts_with('/') || head.path == "*");
  REQUIRE(head.fields.size() <= kMaxRequestFields);
  REQUIRE(is_within(head.method, bytes) && is_within(head.path, bytes));
  REQUIRE(is_within(head.query, bytes));
  bool has_body = false;
  int hosts = 0;
  int lengths = 0;
  int codings = 0;
  for (const auto& [name, value] : head.fields) {
    REQUIRE(is_token(name) && is_within(name, bytes) && is_within(value, bytes));
    REQUIRE(value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos);
    hosts += equal_ignoring_case(name, "host");
    const bool length = equal_ignoring_case(name, "content-length");
    lengths += length;
    has_body = has_body || (length && value.find_first_not_of('0') != std::string_view::npos);
    codings += equal_ignoring_case(name, "transfer-encoding");
  }
  REQUIRE(hosts == 1 || (hosts == 0 && head.http_1_0));
  REQUIRE(lengths + codings <= 1);
  REQUIRE(!((has_body || codings > 0) && (head.method == "GET" || head.method == "HEAD")));
}

void check_refusal(const Refusal& refusal, std::string_view bytes) {
  REQUIRE(refusal.status == 400 || refusal.status == 414 || refusal.status == 431 ||
          refusal.status == 505);
  REQUIRE(refusal.error != nullptr && refusal.error[0] != '\0');
  REQUIRE(is_within(refusal.method, bytes) && is_within(refusal.path, bytes));
}

bool same(const Verdict& a, const Verdict& b) {
  if (a.index() != b.index()) return false;
  if (const auto* head = std::get_if<RequestHead>(&a)) {
    return head->size == std::get<RequestHead>(b).size;
  }
  if (const auto* refusal = std::get_if<Refusal>(&a)) {
    return refusal->status == std::get<Refusal>(b).status;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto whole = parse_request_head(bytes);
  if (const auto* head = std::get_if<RequestHead>(&whole)) check_head(*head, bytes);
  if (const auto* refusal = std::get_if<Refusal>(&whole)) check_refusal(*refusal, bytes);

  // As it arrives: cut at random, each piece in memory of its own so that no read behind its end is
  // missed. Not until the verdict may a shorter piece say anything else.
  std::minstd_rand random(static_cast<unsigned>(size));
  const std::size_t step = 1 + size / 64;
  for (std::size_t end = random() % step; end < size; end += 1 + random() % step) {
    const auto copy = std::make_unique<char[]>(end);
    std::copy_n(data, end, copy.get());
    const auto early = parse_request_head({copy.get(), end});
    if (std::holds_alternative<IncompleteHead>(early)) continue;
    REQUIRE(same(early, whole));
    break;
  }
  return 0;
}
