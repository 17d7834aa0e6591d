#include "chaos/callers.hpp"

#include <array>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t kViolationsShown = 10;
// For an answer that is far too late, to tell it from one that never comes.
constexpr milliseconds kFarTooLate{5'000};

// What a msg is made of: all that could be confused with something else on the way.
constexpr std::array<std::string_view, 16> kPieces{
    "a", "Z9", " ",  "+",    "%",    "%41",      "&msg=",
    "#", "\"", "\\", "\r\n", "\x01", "\xC3\xA9", "\xF0\x9F\x98\x80",
    "}", "<"};

std::string right_body(Target target, const std::string& msg) {
  const auto echo = "{\"echo\":" + nlohmann::json(msg).dump() + "}";
  if (target == Target::kServiceA) return echo + "\n";
  return "{\"service_a\":" + echo + ",\"service_b\":\"ok\"}\n";
}

}  // namespace

// --- Tally ---

void Tally::add_duration(microseconds duration) {
  ++durations[std::chrono::ceil<milliseconds>(duration).count()];
  slowest = std::max(slowest, duration);
}

void Tally::violation(std::string what) {
  ++violations;
  if (first_violations.size() < kViolationsShown) first_violations.push_back(std::move(what));
}

void Tally::add(const Tally& other) {
  calls += other.calls;
  ok += other.ok;
  for (const auto& [reason, count] : other.unavailable) unavailable[reason] += count;
  full += other.full;
  refused += other.refused;
  repeated += other.repeated;
  repeated_new += other.repeated_new;
  repeated_ids.insert(repeated_ids.end(), other.repeated_ids.begin(), other.repeated_ids.end());
  for (const auto& [duration, count] : other.durations) durations[duration] += count;
  for (const auto& [duration, count] : other.timeouts) timeouts[duration] += count;
  slowest = std::max(slowest, other.slowest);
  excused += other.excused;
  violations += other.violations;
  for (const auto& each : other.first_violations) {
    if (first_violations.size() < kViolationsShown) first_violations.push_back(each);
  }
}

std::size_t Tally::unavailable_for(std::string_view reason) const {
  const auto found = unavailable.find(reason);
  return found == unavailable.end() ? 0 : found->second;
}

long Tally::percentile(double share) const { return tests::percentile(durations, share); }

std::string Tally::summary() const {
  std::ostringstream out;
  out << "calls=" << calls << " 200=" << ok;
  for (const auto& [reason, count] : unavailable) out << " 503:" << reason << "=" << count;
  if (full > 0) out << " 503:full=" << full;
  if (refused > 0) out << " refused=" << refused;
  if (repeated > 0) out << " repeated=" << repeated << " (" << repeated_new << " of a new one)";
  out << " p50=" << percentile(0.5) << "ms p99=" << percentile(0.99) << "ms slowest=" << std::fixed
      << std::setprecision(1) << std::chrono::duration<double, std::milli>(slowest).count() << "ms";
  if (excused > 0) out << " late with the machine=" << excused;
  if (violations > 0) out << " VIOLATIONS=" << violations;
  return out.str();
}

std::string Tally::violations_text() const {
  std::string text;
  for (const auto& each : first_violations) text += each + "\n";
  return text;
}

// --- Callers ---

Callers::Callers(CallerOptions options) : options_(std::move(options)) {
  running_ = options_.count;
  for (std::size_t i = 0; i < options_.count; ++i) {
    auto& caller = callers_.emplace_back();
    caller.number = i;
    std::seed_seq seed{options_.seed, static_cast<std::uint32_t>(i)};
    caller.random.seed(seed);
  }
  for (auto& caller : callers_) caller.thread = std::thread([this, &caller] { run(caller); });
}

Callers::~Callers() { stop(); }

Tally Callers::stop() {
  stopping_ = true;
  for (auto& caller : callers_) {
    if (caller.thread.joinable()) caller.thread.join();
  }
  auto tally = so_far();
  const auto half = tests::percentile(tally.timeouts, 0.5);
  if (milliseconds(half) > options_.limit + kSlack) {
    tally.violation("half of the timeouts took " + std::to_string(half) + " ms and more");
  }
  return tally;
}

bool Callers::wait(milliseconds timeout) {
  return eventually([this] { return running_ == 0; }, timeout);
}

Tally Callers::so_far() const {
  Tally all;
  for (const auto& caller : callers_) {
    const std::lock_guard lock(caller.mutex);
    all.add(caller.tally);
  }
  return all;
}

bool Callers::wait_for_ok(std::size_t more, milliseconds timeout) {
  const auto wanted = ok_ + more;
  return eventually([&] { return ok_ >= wanted; }, timeout);
}

bool Callers::wait_for_unavailable(std::size_t more, milliseconds timeout) {
  const auto wanted = unavailable_ + more;
  return eventually([&] { return unavailable_ >= wanted; }, timeout);
}

void Callers::run(Caller& caller) {
  while (!stopping_ && !caller.done) {
    call(caller);
    std::this_thread::sleep_for(options_.pause);
  }
  caller.connection.reset();
  --running_;
}

std::string Callers::new_msg(Caller& caller) const {
  std::string msg = std::to_string(options_.seed) + "-" + std::to_string(caller.number) + "-" +
                    std::to_string(caller.sent) + "-";
  // Mostly short; now and then of a size that does not fit into one segment.
  auto pieces = caller.random() % 8;
  if (caller.random() % 64 == 0) pieces = 400;
  for (; pieces > 0; --pieces) msg += kPieces[caller.random() % kPieces.size()];
  if (caller.random() % 16 == 0) msg += '\0';
  return msg;
}

void Callers::call(Caller& caller) {
  const auto msg = new_msg(caller);
  const std::string path = options_.target == Target::kServiceA ? "/echo" : "/call-echo";
  const auto violation = [&](const std::string& what) {
    const std::lock_guard lock(caller.mutex);
    caller.tally.violation(what + " (caller " + std::to_string(caller.number) + ", request " +
                           std::to_string(caller.sent) + ")");
  };

  while (true) {
    const auto id = "chaos-" + std::to_string(options_.seed) + "-" + std::to_string(caller.number) +
                    "-" + std::to_string(++caller.sent);
    const auto lost = control_.lost();
    const auto start = Clock::now();
    const bool reused = caller.connection != nullptr;
    if (!reused) {
      caller.connection = std::make_unique<Connection>(
          options_.port, ConnectionOptions{.connect_timeout = options_.limit + kFarTooLate});
      if (!caller.connection->connected()) {
        const auto error = caller.connection->error();
        caller.connection.reset();
        if (!options_.may_be_refused) return violation("no connection: " + error);
        caller.done = options_.ends_when_refused;
        const std::lock_guard lock(caller.mutex);
        ++caller.tally.refused;
        return;
      }
    }
    auto& connection = *caller.connection;
    connection.send("GET " + path + "?msg=" + percent_encode(msg) +
                    " HTTP/1.1\r\nHost: chaos\r\nX-Request-ID: " + id + "\r\n\r\n");
    const auto response = connection.read_response(options_.limit + kFarTooLate);
    const auto duration = std::chrono::duration_cast<microseconds>(Clock::now() - start);
    if (response) {
      judge(caller, msg, id, *response, duration, lost);
      if (response->header("connection") == "close") caller.connection.reset();
      return;
    }

    const auto error = connection.error();
    const bool nothing_came = connection.unread().empty();
    const bool closed = error.starts_with("closed") || error.starts_with("reset");
    caller.connection.reset();
    if (!closed || !nothing_came || !options_.may_be_closed) {
      return violation(std::string("no answer on a ") + (reused ? "reused" : "new") +
                       " connection, " + (nothing_came ? "not a byte" : "cut") + ": " + error);
    }
    const std::lock_guard lock(caller.mutex);
    ++caller.tally.repeated;
    if (!reused) ++caller.tally.repeated_new;
    caller.tally.repeated_ids.push_back(id);
  }
}

void Callers::judge(Caller& caller, const std::string& msg, const std::string& id,
                    const Response& response, microseconds duration, microseconds lost_before) {
  const auto reason = response.field("reason");
  // A machine that is busy makes answers late, Service A's as well, for which Service B then has no
  // time left.
  const bool late = duration > options_.limit + kSlack;
  const bool timed_out = reason == "timeout" && !options_.reasons.contains(reason);
  microseconds lost{};
  if (late || timed_out) lost = control_.lost_by_now() - lost_before;
  const bool late_by_itself = late && duration > options_.limit + kSlack + lost;
  const bool timed_out_by_itself = timed_out && lost < options_.limit / 4;

  const std::lock_guard lock(caller.mutex);
  auto& tally = caller.tally;
  ++tally.calls;
  tally.add_duration(duration);
  const auto seen = " (" + id + ", after " + std::to_string(duration.count() / 1000) +
                    " ms): " + std::to_string(response.status) + " " + response.body;
  if (late_by_itself) tally.violation("too late" + seen);
  if (timed_out_by_itself) tally.violation("no time for it" + seen);
  if ((late && !late_by_itself) || (timed_out && !timed_out_by_itself)) ++tally.excused;
  if (reason == "timeout") ++tally.timeouts[std::chrono::ceil<milliseconds>(duration).count()];
  if (options_.may_be_full && response.status == 503 &&
      response.body == "{\"error\":\"too many open connections\"}\n") {
    ++tally.full;
    return;
  }
  if (response.header("x-request-id") != id) tally.violation("another request's id" + seen);
  if (response.status == 200) {
    ++tally.ok;
    ++ok_;
    if (response.body != right_body(options_.target, msg)) tally.violation("a wrong 200" + seen);
    return;
  }
  ++tally.unavailable[reason];
  ++unavailable_;
  if (response.status != 503 || response.header("retry-after") != "1" ||
      !(timed_out || options_.reasons.contains(reason)) || response.field("error") == "(none)" ||
      response.field("service_a") != "unavailable" || response.field("service_b") != "ok") {
    tally.violation("not an answer that fits" + seen);
  }
}

}  // namespace tests::chaos
