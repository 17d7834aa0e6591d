#include "chaos/callers.hpp"

#include <array>
#include <nlohmann/json.hpp>

namespace tests::chaos {
namespace {

using std::chrono::microseconds;

constexpr std::size_t kViolationsShown = 10;
// For an answer that is far too late, to tell it from one that never comes.
constexpr milliseconds kFarTooLate{5'000};

// What a msg is made of: all that could be confused with something else on the way.
constexpr std::array<std::string_view, 16> kPieces{
    "a", "Z9", " ",  "+",    "%",    "%41",      "&msg=",
    "#", "\"", "\\", "\r\n", "\x01", "\xC3\xA9", "\xF0\x9F\x98\x80",
    "}", "<"};

// Begins with `id`, which nobody else has. Mostly short; now and then of a size that does not fit
// into one segment.
std::string new_msg(const std::string& id, std::mt19937& random) {
  auto msg = id + "-";
  auto pieces = random() % 8;
  if (random() % 64 == 0) pieces = 400;
  for (; pieces > 0; --pieces) msg += kPieces[random() % kPieces.size()];
  if (random() % 16 == 0) msg += '\0';
  return msg;
}

}  // namespace

// --- Tally

std::size_t Tally::count(std::string_view what) const {
  const auto found = counts.find(what);
  return found == counts.end() ? 0 : found->second;
}

void Tally::add(const Tally& other) {
  for (const auto& [what, count] : other.counts) counts[what] += count;
  for (const auto& [duration, count] : other.durations) durations[duration] += count;
  for (const auto& [duration, count] : other.timeouts) timeouts[duration] += count;
  repeated_ids.insert(other.repeated_ids.begin(), other.repeated_ids.end());
  violations.insert(violations.end(), other.violations.begin(), other.violations.end());
}

std::string Tally::summary() const {
  std::string text;
  for (const auto& [what, count] : counts) text += what + ": " + std::to_string(count) + ", ";
  text += "p50/p99/slowest";
  for (const double share : {0.5, 0.99, 1.0}) {
    text += " " + std::to_string(percentile(durations, share));
  }
  return text + " ms" + (violations.empty() ? "" : ", VIOLATIONS");
}

void expect_no_violation(const Tally& tally, const std::string& log) {
  for (const auto& each : tally.violations) ADD_FAILURE() << each;
  constexpr std::string_view kKey = " request_id=";
  for (auto at = log.find(kKey); at != std::string::npos; at = log.find(kKey, at)) {
    at += kKey.size();
    const auto id = std::string_view(log).substr(at, log.find_first_of(" \n", at) - at);
    EXPECT_FALSE(tally.repeated_ids.contains(id)) << id << " was taken and then lost";
  }
}

// --- Callers

Callers::Callers(CallerOptions options) : options_(std::move(options)), running_(options_.count) {
  for (std::size_t i = 0; i < options_.count; ++i) {
    auto& caller = callers_.emplace_back();
    caller.number = i;
    std::seed_seq seed{options_.seed, static_cast<std::uint32_t>(i)};
    caller.random.seed(seed);
    caller.thread = std::thread([this, &caller] { run(caller); });
  }
}

Callers::~Callers() { stop(); }

Tally Callers::stop() {
  stopping_ = true;
  for (auto& caller : callers_) {
    if (caller.thread.joinable()) caller.thread.join();
  }
  auto tally = so_far();
  const auto half = percentile(tally.timeouts, 0.5);
  if (milliseconds(half) > options_.limit + kSlack) {
    tally.violations.push_back("half of the timeouts took " + std::to_string(half) + " ms or more");
  }
  return tally;
}

Tally Callers::so_far() const {
  Tally all;
  for (const auto& caller : callers_) {
    const std::lock_guard lock(caller.mutex);
    all.add(caller.tally);
  }
  return all;
}

void Callers::wait_for(const std::function<bool()>& what) const {
  EXPECT_TRUE(eventually(what, kPatience)) << so_far().summary();
}

void Callers::wait_for_ok(std::size_t more) {
  wait_for([&, wanted = ok_ + more] { return ok_ >= wanted; });
}

void Callers::wait_for_unavailable(std::size_t more) {
  wait_for([&, wanted = unavailable_ + more] { return unavailable_ >= wanted; });
}

void Callers::wait_until_done() {
  wait_for([&] { return running_ == 0; });
}

void Callers::run(Caller& caller) {
  while (!stopping_ && !caller.done) {
    call(caller);
    std::this_thread::sleep_for(options_.pause);
  }
  caller.connection.reset();
  --running_;
}

void Callers::call(Caller& caller) {
  using Stops = CallerOptions::Stops;
  const auto new_id = [&] {
    return "chaos-" + std::to_string(options_.seed) + "-" + std::to_string(caller.number) + "-" +
           std::to_string(++caller.sent);
  };
  auto id = new_id();
  const auto msg = new_msg(id, caller.random);
  const auto violation = [&](const std::string& what) {
    const std::lock_guard lock(caller.mutex);
    if (caller.tally.violations.size() < kViolationsShown) {
      caller.tally.violations.push_back(what + " (" + id + ")");
    }
  };

  for (;; id = new_id()) {
    const auto lost = control_.lost();
    const auto start = Clock::now();
    const bool reused = caller.connection != nullptr;
    if (!reused) {
      caller.connection = std::make_unique<Connection>(
          options_.port, ConnectionOptions{.connect_timeout = options_.limit + kFarTooLate});
      if (!caller.connection->connected()) {
        const auto error = caller.connection->error();
        caller.connection.reset();
        if (options_.stops == Stops::kNever) return violation("no connection: " + error);
        caller.done = options_.stops == Stops::kAndThatIsAll;
        const std::lock_guard lock(caller.mutex);
        ++caller.tally.counts["refused"];
        return;
      }
    }
    auto& connection = *caller.connection;
    connection.send(request_text(options_.path + "?msg=" + percent_encode(msg), "GET",
                                 "X-Request-ID: " + id + "\r\n"));
    const auto response = connection.read_response(options_.limit + kFarTooLate);
    const auto duration = std::chrono::duration_cast<microseconds>(Clock::now() - start);
    if (response) {
      judge(caller, msg, id, response, duration, lost);
      // What is asked of /health is to accept as well.
      if (response.header("connection") == "close" || options_.path == "/health") {
        caller.connection.reset();
      }
      return;
    }

    const auto error = response.error;
    const bool nothing_came = connection.unread().empty();
    caller.connection.reset();
    if (error.starts_with("timeout") || !nothing_came || options_.stops == Stops::kNever) {
      return violation(std::string("no answer on a ") + (reused ? "reused" : "new") +
                       " connection, " + (nothing_came ? "not a byte" : "cut") + ": " + error);
    }
    const std::lock_guard lock(caller.mutex);
    ++caller.tally.counts["repeated"];
    caller.tally.repeated_ids.insert(id);
  }
}

void Callers::judge(Caller& caller, const std::string& msg, const std::string& id,
                    const Response& response, microseconds duration, microseconds lost_before) {
  const bool full = response.body == "{\"error\":\"too many open connections\"}\n";
  const auto reason = full ? "full" : response.field("reason");
  const bool fits = options_.reasons.contains(reason);
  // A machine that is busy makes answers late, Service A's as well, for which Service B then has no
  // time left.
  const auto limit = options_.limit + kSlack;
  const bool late = duration > limit;
  const bool timed_out = reason == "timeout" && !fits;
  microseconds lost{};
  if (late || timed_out) lost = control_.lost_by_now() - lost_before;
  const auto ms = std::chrono::ceil<milliseconds>(duration).count();

  const std::lock_guard lock(caller.mutex);
  auto& tally = caller.tally;
  const auto violation = [&](const std::string& what) {
    if (tally.violations.size() == kViolationsShown) return;
    tally.violations.push_back(what + " (" + id + ", after " + std::to_string(ms) +
                               " ms): " + std::to_string(response.status) + " " + response.body);
  };
  ++tally.durations[ms];
  if (reason == "timeout") ++tally.timeouts[ms];
  if (late && duration > limit + lost) {
    violation("too late");
  } else if (timed_out && lost < options_.limit / 4) {
    violation("no time for it");
  } else if (late || timed_out) {
    ++tally.counts["excused"];
  }
  if (!full && response.header("x-request-id") != id) violation("another request's id");
  if (response.status == 200) {
    ++tally.counts["200"];
    ++ok_;
    if (response.body != right_body(msg)) violation("a wrong 200");
    return;
  }
  ++tally.counts[std::to_string(response.status) + " " + reason];
  ++unavailable_;
  if (response.status != 503 || !(timed_out || fits) ||
      (!full &&
       (response.header("retry-after") != "1" || response.field("error") == "(none)" ||
        response.field("service_a") != "unavailable" || response.field("service_b") != "ok"))) {
    violation("not an answer that fits");
  }
}

std::string Callers::right_body(const std::string& msg) const {
  if (options_.path == "/health") return "{\"status\":\"ok\"}\n";
  const auto echo = "{\"echo\":" + nlohmann::json(msg).dump() + "}";
  if (options_.path == "/echo") return echo + "\n";
  return "{\"service_a\":" + echo + ",\"service_b\":\"ok\"}\n";
}

}  // namespace tests::chaos
