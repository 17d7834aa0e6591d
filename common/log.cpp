#include "common/log.hpp"

#include <poll.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/systemd.hpp"

namespace common {
namespace {

using namespace std::chrono_literals;

constexpr auto kFlushInterval = 50ms;
constexpr auto kLastWords = 1000ms;  // for a reader that hangs at the end
constexpr std::size_t kFlushSize = 65'536;
constexpr std::size_t kMaxWaiting = 8'388'608;
constexpr std::size_t kMaxMethod = 32;
constexpr std::size_t kMaxEndpoint = 256;

// The bytes that stand in a value as they are. A table, for each byte of a line is looked up.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (unsigned char c = '!'; c <= '~'; ++c) plain[c] = c != '"' && c != '=' && c != '\\';
  return plain;
}();

bool is_plain(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return kPlain[c]; });
}

std::string quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

void append_field(std::string& line, LogFormat format, std::string_view key, std::string_view value,
                  bool number = false) {
  const bool json = format == LogFormat::kJson;
  if (!line.empty()) line += json ? ',' : ' ';
  line.append(json ? "\"" : "").append(key).append(json ? "\":" : "=");
  if (number || (!json && is_plain(value))) {
    line += value;
  } else if (is_plain(value)) {
    line.append("\"").append(value).append("\"");
  } else {
    line += quoted(value);
  }
}

/// For people: escaped, but without the quotes.
void append_sentence(std::string& line, std::string_view text) {
  const auto escaped = quoted(text);
  line.append(escaped, 1, escaped.size() - 2);
}

/// A word for each of spdlog's levels, where its own won't do: the log says "warn", not "warning".
class LevelWord final : public spdlog::custom_flag_formatter {
 public:
  using Words = std::array<std::string_view, spdlog::level::n_levels>;
  explicit LevelWord(const Words& words) : words_(words) {}

  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    const auto word = words_[message.level];
    line.append(word.data(), word.data() + word.size());
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<LevelWord>(words_);
  }

 private:
  const Words& words_;
};
constexpr LevelWord::Words kNames{"trace", "debug", "info", "warn", "error", "critical", "off"};
constexpr LevelWord::Words kPadded{"trace", "debug", "info ", "warn ", "error", "critical", "off"};
constexpr LevelWord::Words kPriorities{"<7>", "<7>", "<6>", "<4>", "<3>", "<2>", ""};
constexpr LevelWord::Words kColours{"",         "\x1b[36m", "\x1b[32m", "\x1b[33m",
                                    "\x1b[31m", "\x1b[31m", ""};

/// "auto" is what suits the reader of stdout.
LogFormat to_format(std::string_view word) {
  if (word == "json") return LogFormat::kJson;
  const bool text = word == "text" || (word == "auto" && isatty(STDOUT_FILENO) == 1);
  return text ? LogFormat::kText : LogFormat::kLogfmt;
}

bool wants_colour() {  // no-color.org, bixense.com/clicolors
  const char* const terminal = std::getenv("TERM");
  const bool dumb = terminal != nullptr && std::string_view(terminal) == "dumb";
  const auto is_set = [](const char* name) {
    const char* const value = std::getenv(name);
    return value != nullptr && *value != '\0';
  };
  return !is_set("NO_COLOR") && (is_set("CLICOLOR_FORCE") || (!dumb && isatty(STDOUT_FILENO) == 1));
}

/// Whether stdout is a file that ends in the middle of a line, as a full disk may have left it.
bool is_stdout_torn() {
  constexpr auto kStdout = "/proc/self/fd/1";  // itself may be open for writing alone
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(kStdout, ignored)) return false;
  std::ifstream file(kStdout);
  return file.seekg(-1, std::ios::end) && file.peek() != '\n';
}

}  // namespace

std::string milliseconds(std::chrono::nanoseconds duration) {
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  auto text = std::to_string(micros / 1000) + "." + std::to_string(1000 + micros % 1000);
  return text.erase(text.size() - 4, 1);  // 1.1287 to 1.287
}

spdlog::level::level_enum level_of(const http::Exchange& exchange) {
  switch (exchange.outcome) {
    case http::Exchange::Outcome::kOk: return spdlog::level::info;
    case http::Exchange::Outcome::kRefused: return spdlog::level::warn;
    case http::Exchange::Outcome::kFailed: return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string request_text(LogFormat format, const http::Exchange& exchange) {
  const auto method = std::string_view(exchange.method).substr(0, kMaxMethod);
  const auto endpoint = std::string_view(exchange.endpoint).substr(0, kMaxEndpoint);
  const auto status = std::to_string(exchange.status);
  const auto latency = milliseconds(exchange.latency);
  std::string line;
  line.reserve(256);
  if (format != LogFormat::kText) {
    append_field(line, format, "method", method);
    append_field(line, format, "endpoint", endpoint);
    append_field(line, format, "status", status, true);
    append_field(line, format, "latency_ms", latency, true);
    for (const auto& [key, value, number] : exchange.notes) {
      append_field(line, format, key, value, number);
    }
    append_field(line, format, "request_id", exchange.request_id);
    append_field(line, format, "trace_id", exchange.trace.trace_id);
    return line;
  }
  for (const auto word : {method, endpoint}) {
    line.append(word.empty() ? "-" : is_plain(word) ? word : quoted(word)) += ' ';
  }
  line.append(status).append(" ").append(latency).append(" ms ");
  for (const auto& note : exchange.notes) {
    if (note.key != "reason" && note.key != "error") continue;
    append_sentence(line, note.value);
    line += note.key == "reason" ? ": " : " ";
  }
  return line += exchange.request_id;
}

std::string event_text(LogFormat format, std::string_view msg,
                       const std::vector<LogField>& fields) {
  std::string line;
  if (format == LogFormat::kText) {
    append_sentence(line, msg);
  } else {
    append_field(line, format, "msg", msg);
  }
  for (const auto& [key, value, number] : fields) append_field(line, format, key, value, number);
  return line;
}

std::unique_ptr<spdlog::formatter> make_formatter(LogFormat format, bool journal, bool colour) {
  const bool text = format == LogFormat::kText;
  auto formatter = std::make_unique<spdlog::pattern_formatter>(
      text ? spdlog::pattern_time_type::local : spdlog::pattern_time_type::utc, "\n");
  formatter->add_flag<LevelWord>('l', text ? kPadded : kNames);
  formatter->add_flag<LevelWord>('j', kPriorities);
  formatter->add_flag<LevelWord>('k', kColours);
  std::string pattern = "time=%Y-%m-%dT%T.%fZ level=%l service=%n %v";
  if (text) pattern = colour ? "%T.%e %k%l\x1b[m %n %v" : "%T.%e %l %n %v";
  if (format == LogFormat::kJson) {
    pattern = R"({"time":"%Y-%m-%dT%T.%fZ","level":"%l","service":"%n",%v})";
  }
  formatter->set_pattern(journal ? "%j" + pattern : pattern);
  return formatter;
}

/// Collects lines, and lets a thread write them: spdlog's own async logger wakes its thread for
/// each line, which costs more than the line. base_sink's mutex guards `waiting_`.
class Log::Sink final : public spdlog::sinks::base_sink<std::mutex>,
                        public std::enable_shared_from_this<Sink> {
 public:
  Sink(const std::string& service, LogFormat format)
      : base_sink(make_formatter(format, systemd::is_journal(STDOUT_FILENO), wants_colour())),
        service_(service),
        format_(format) {}

  /// The thread owns this, too: it may hang for ever in a write to a pipe that others fill.
  void start() {
    std::thread([self = shared_from_this()] { self->run(); }).detach();
  }

  /// Returns when all that was logged before is written, or given up.
  void end() {
    std::unique_lock lock(mutex_);
    ended_ = true;
    wake_.notify_all();
    const auto finished = [this] { return finished_; };
    std::uint64_t before = 0;
    do {
      before = writes_;  // a reader that is only slow gets all
    } while (!wake_.wait_for(lock, kLastWords + 4 * kFlushInterval, finished) && writes_ != before);
  }

  std::atomic<std::uint64_t> lost = 0;

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const auto before = waiting_.size();
    if (before > kMaxWaiting) {
      ++lost;
      return;
    }
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    waiting_.append(line.data(), line.size());
    if (before == 0 || (before <= kFlushSize && waiting_.size() > kFlushSize)) wake_.notify_one();
  }
  void flush_() override {}

  void run() {
    std::string block;
    std::uint64_t told = 0;  // of the lost lines
    std::unique_lock lock(mutex_);
    // The last round may tell of lost lines: there is one more for that.
    for (bool last = false; !last || !waiting_.empty();) {
      wake_.wait(lock, [this] { return ended_ || !waiting_.empty(); });
      wake_.wait_for(lock, kFlushInterval,
                     [this] { return ended_ || waiting_.size() > kFlushSize; });
      last = ended_;
      block.clear();
      block.swap(waiting_);
      lock.unlock();
      const auto failed = write_lines(block);
      lost += failed;
      if (block.capacity() > 4 * kFlushSize) std::string().swap(block);
      lock.lock();
      if (failed == 0 && lost != told && waiting_.size() <= kMaxWaiting) told = tell_lost(told);
    }
    finished_ = true;
    wake_.notify_all();
  }

  /// Logs how many lines were lost so far. Returns how many have been told of now.
  std::uint64_t tell_lost(std::uint64_t told) try {
    const std::uint64_t total = lost;
    sink_it_({service_, spdlog::level::warn,
              event_text(format_, "log lines were lost, stdout did not take them",
                         {{"total", std::to_string(total), true}})});
    return total;
  } catch (const std::bad_alloc&) {
    return told;
  }

  /// Returns how many lines stdout did not take.
  std::uint64_t write_lines(std::string_view lines) {
    if (torn_) torn_ = !write("\n").empty();
    const auto rest = torn_ ? lines : write(lines);
    if (rest.size() < lines.size()) torn_ = lines[lines.size() - rest.size() - 1] != '\n';
    return static_cast<std::uint64_t>(std::count(rest.begin(), rest.end(), '\n'));
  }

  /// Returns what stdout did not take. Pieces of at most PIPE_BUF bytes: after POLLOUT a pipe takes
  /// them without blocking (pipe(7)), so at the end a reader that hangs is noticed and left behind.
  /// One that is only slow gets all, and may hold the stop for so long: the supervisor has a limit.
  /// They are whole lines: a pipe may have other writers, and keeps together what comes at once.
  std::string_view write(std::string_view text) {
    while (!text.empty()) {
      pollfd wanted{STDOUT_FILENO, POLLOUT, 0};
      if (poll(&wanted, 1, static_cast<int>(kFlushInterval.count())) == 0) {
        if (ended_ && (last_words_ -= kFlushInterval) < std::chrono::milliseconds::zero()) break;
        continue;
      }
      auto size = std::min<std::size_t>(text.size(), PIPE_BUF);
      if (const auto end = text.rfind('\n', size - 1); end != std::string_view::npos)
        size = end + 1;
      const auto count = ::write(STDOUT_FILENO, text.data(), size);
      if (count < 0 && errno != EINTR && errno != EAGAIN) break;
      if (count <= 0) continue;
      text.remove_prefix(static_cast<std::size_t>(count));
      ++writes_;
      last_words_ = kLastWords;
    }
    return text;
  }

  const std::string service_;
  const LogFormat format_;
  std::string waiting_;
  bool torn_ = is_stdout_torn();  // stdout has the beginning of a line; run()'s alone
  std::chrono::milliseconds last_words_ = kLastWords;  // the same
  std::atomic<bool> ended_{false};
  std::atomic<std::uint64_t> writes_ = 0;
  bool finished_ = false;
  std::condition_variable wake_;
};

Log::Log(const std::string& service, const std::string& level, const std::string& format)
    : format_(to_format(format)),
      sink_(std::make_shared<Sink>(service, format_)),
      logger_(service, sink_) {
  logger_.set_level(spdlog::level::from_str(level));
  logger_.set_error_handler([this](const std::string&) { ++sink_->lost; });
  sink_->start();
}

Log::~Log() { end(); }

template <typename Text>
void Log::write(spdlog::level::level_enum level, Text&& text) try {
  if (!logger_.should_log(level)) return;
  const std::string line = text();
  logger_.log(level, spdlog::string_view_t(line.data(), line.size()));
} catch (const std::bad_alloc&) {
  ++sink_->lost;
}

void Log::request(const http::Exchange& exchange) {
  write(level_of(exchange), [&] { return request_text(format_, exchange); });
}

void Log::event(spdlog::level::level_enum level, std::string_view msg,
                const std::vector<LogField>& fields) {
  write(level, [&] { return event_text(format_, msg, fields); });
}

std::uint64_t Log::lost() const { return sink_->lost; }

void Log::end() { sink_->end(); }

int fail(int code, const std::string& service, std::string_view sentence) {
  std::string line = service + ": ";
  for (const char& c : sentence) {
    // A CR of a file from Windows would have a terminal write the rest over the beginning.
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) {
      append_sentence(line, {&c, 1});
    } else {
      line += c;
    }
  }
  std::cerr << (systemd::is_journal(STDERR_FILENO) ? kPriorities[spdlog::level::err] : "")
            << line + "\n";
  return code;
}

}  // namespace common
