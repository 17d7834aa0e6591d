#include "common/log.hpp"

#include <poll.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

namespace common {
namespace {

constexpr auto kFlushInterval = std::chrono::milliseconds(50);
constexpr auto kLastWords =
    std::chrono::seconds(1);  // for a reader of stdout that hangs, at the end
constexpr std::size_t kFlushSize = 65'536;
constexpr std::size_t kMaxWaiting = 8'388'608;
constexpr std::size_t kMaxEndpoint = 256;

// What stands in a value as it is, in both forms. A table, for each character of a line is looked
// up.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (unsigned char c = '!'; c <= '~'; ++c) plain[c] = c != '"' && c != '=' && c != '\\';
  return plain;
}();

bool needs_quotes(std::string_view text) {
  return text.empty() ||
         !std::all_of(text.begin(), text.end(), [](unsigned char c) { return kPlain[c]; });
}

// 2026-11-23T06:47:01.123456Z; all but the fraction is made once a second.
void append_time(std::string& line, std::chrono::system_clock::time_point time) {
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
  thread_local std::time_t made_at = -1;
  thread_local std::string text;
  if (const auto second = static_cast<std::time_t>(micros / 1'000'000); second != made_at) {
    std::tm utc{};
    gmtime_r(&second, &utc);
    char buffer[32];
    text.assign(buffer, std::strftime(buffer, sizeof buffer, "%Y-%m-%dT%H:%M:%S.", &utc));
    made_at = second;
  }
  const auto fraction = std::to_string(micros % 1'000'000);
  line += text;
  line.append(6 - fraction.size(), '0');
  line += fraction;
  line += 'Z';
}

void append_field(std::string& line, LogFormat format, std::string_view key, std::string_view value,
                  bool number = false) {
  const bool json = format == LogFormat::kJson;
  line.append(json ? ",\"" : " ").append(key).append(json ? "\":" : "=");
  if (!number && needs_quotes(value)) {
    line += nlohmann::json(value).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  } else {
    const std::string_view mark = json && !number ? "\"" : "";
    line.append(mark).append(value).append(mark);
  }
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  return static_cast<spdlog::level::level_enum>(level);
}
static_assert(static_cast<int>(LogLevel::kDebug) == spdlog::level::debug &&
              static_cast<int>(LogLevel::kOff) == spdlog::level::off);

}  // namespace

std::string_view to_word(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarn: return "warn";
    case LogLevel::kError: return "error";
    case LogLevel::kOff: return "off";
  }
  return "off";
}

std::string format_line(LogFormat format, std::chrono::system_clock::time_point time,
                        LogLevel level, std::string_view service,
                        const std::vector<LogField>& fields) {
  const bool json = format == LogFormat::kJson;
  std::string line;
  line.reserve(320);
  line += json ? "{\"time\":\"" : "time=";
  append_time(line, time);
  if (json) line += '"';
  append_field(line, format, "level", to_word(level));
  append_field(line, format, "service", service);
  for (const auto& [key, value, number] : fields) append_field(line, format, key, value, number);
  if (json) line += '}';
  return line;
}

std::string milliseconds(std::chrono::nanoseconds duration) {
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  auto text = std::to_string(micros / 1000) + "." + std::to_string(1000 + micros % 1000);
  return text.erase(text.size() - 4, 1);  // 1.1287 to 1.287
}

std::vector<LogField> request_fields(const http::Exchange& exchange) {
  std::vector<LogField> fields;
  fields.reserve(7 + exchange.notes.size());
  fields.push_back({"method", exchange.method.substr(0, 32)});
  fields.push_back({"endpoint", exchange.endpoint.substr(0, kMaxEndpoint)});
  fields.push_back({"status", std::to_string(exchange.status), true});
  fields.push_back({"latency_ms", milliseconds(exchange.latency), true});
  fields.insert(fields.end(), exchange.notes.begin(), exchange.notes.end());
  fields.push_back({"request_id", exchange.request_id});
  fields.push_back({"trace_id", exchange.trace.trace_id});
  return fields;
}

LogLevel level_of(const http::Exchange& exchange) {
  switch (exchange.outcome) {
    case http::Exchange::Outcome::kOk: return LogLevel::kInfo;
    case http::Exchange::Outcome::kRefused: return LogLevel::kWarn;
    case http::Exchange::Outcome::kFailed: return LogLevel::kError;
  }
  return LogLevel::kError;
}

/// Collects lines, and lets a thread write them: spdlog's own async logger wakes its thread for
/// each line, which costs more than the line. base_sink's mutex guards `waiting_`.
class Log::Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  Sink() : writer_([this] { run(); }) {}
  ~Sink() override { end(); }

  /// Returns when all that was logged before is written, or given up.
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_one();
    if (writer_.joinable()) writer_.join();
  }

  /// How many lines were dropped, once there is room again; then counts anew.
  std::uint64_t take_dropped() {
    if (dropped_ == 0) return 0;
    const std::lock_guard lock(mutex_);
    return waiting_.empty() ? dropped_.exchange(0) : 0;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (waiting_.size() > kMaxWaiting) {
      ++dropped_;
      return;
    }
    waiting_.reserve(waiting_.size() + message.payload.size() + 1);  // a whole line, or none
    const bool first = waiting_.empty();
    waiting_.append(message.payload.data(), message.payload.size());
    waiting_ += '\n';
    const bool many = waiting_.size() > kFlushSize && !hurry_;
    hurry_ = hurry_ || many;
    if (first || many) wake_.notify_one();
  }
  void flush_() override {}

  void run() {
    std::string writing;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ended_ || hurry_ || !waiting_.empty(); });
      wake_.wait_for(lock, kFlushInterval, [this] { return ended_ || hurry_; });
      hurry_ = false;
      writing.clear();
      writing.swap(waiting_);
      const bool last = ended_;
      lock.unlock();
      write_to_stdout(writing);
      if (writing.capacity() > 4 * kFlushSize) std::string().swap(writing);
      lock.lock();
      if (last) return;
    }
  }

  // Pieces of PIPE_BUF bytes: after POLLOUT a pipe takes them without blocking (pipe(7)), so that
  // at the end a reader that hangs is noticed and left behind.
  void write_to_stdout(std::string_view text) {
    std::optional<std::chrono::steady_clock::time_point> give_up;
    while (!text.empty()) {
      pollfd wanted{STDOUT_FILENO, POLLOUT, 0};
      if (poll(&wanted, 1, static_cast<int>(kFlushInterval.count())) == 0) {
        const auto now = std::chrono::steady_clock::now();
        if (ended_ && !give_up) give_up = now + kLastWords;
        if (give_up && now >= *give_up) return;
        continue;
      }
      const auto count =
          ::write(STDOUT_FILENO, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
      if (count < 0 && errno != EINTR && errno != EAGAIN) return;  // nobody reads any more
      if (count > 0) text.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  std::string waiting_;
  std::atomic<std::uint64_t> dropped_{0};
  bool hurry_ = false;
  std::atomic<bool> ended_{false};
  std::condition_variable wake_;
  std::thread writer_;
};

Log::Log(std::string service, LogLevel level, LogFormat format)
    : service_(std::move(service)), format_(format), sink_(std::make_shared<Sink>()) {
  logger_ = std::make_unique<spdlog::logger>(service_, sink_);
  logger_->set_level(to_spdlog(level));
}

Log::~Log() = default;

void Log::request(const http::Exchange& exchange) {
  const auto level = level_of(exchange);
  if (logger_->should_log(to_spdlog(level))) write(level, request_fields(exchange));
}

void Log::event(LogLevel level, std::string_view msg, std::vector<LogField> fields) {
  fields.insert(fields.begin(), {"msg", std::string(msg)});
  write(level, fields);
}

void Log::write(LogLevel level, const std::vector<LogField>& fields) {
  if (const auto dropped = sink_->take_dropped(); dropped > 0) {
    event(LogLevel::kWarn, "log lines dropped, stdout was blocked",
          {{"count", std::to_string(dropped), true}});
  }
  const auto line = format_line(format_, std::chrono::system_clock::now(), level, service_, fields);
  logger_->log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

void Log::end() { sink_->end(); }

}  // namespace common
