#include "chaos/chaos.hpp"

#include <cstdlib>
#include <iostream>
#include <thread>

#include "support/http_client.hpp"

namespace tests::chaos {
namespace {

// Memory that a process may keep after work that it has not done before.
const long kKeptKib = (kSanitized ? 192 : 12) * 1024;

// Keeps what a sanitizer sets aside small: memory is compared.
std::string with(const std::string& name, const std::string& option) {
  const char* set = std::getenv(name.c_str());
  return name + "=" + (set != nullptr ? std::string(set) + ":" : "") + option;
}

}  // namespace

std::uint32_t chaos_seed() {
  static const std::uint32_t seed = [] {
    const char* text = std::getenv("CHAOS_SEED");
    const auto value = text != nullptr && *text != '\0'
                           ? static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10))
                           : std::random_device{}();
    std::cout << "CHAOS_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

int draw(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

void pause(std::mt19937& random, int low, int high) {
  std::this_thread::sleep_for(milliseconds(draw(random, low, high)));
}

Footprint footprint(pid_t pid) { return {open_files(pid), thread_count(pid), rss_kib(pid)}; }

std::string to_text(const Footprint& footprint) {
  return "files=" + std::to_string(footprint.files) +
         " threads=" + std::to_string(footprint.threads) +
         " rss=" + std::to_string(footprint.rss_kib) + "KiB";
}

Restartable::Restartable(std::string binary) : binary_(std::move(binary)) {
  options.environment = {with("ASAN_OPTIONS", "quarantine_size_mb=4"),
                         with("TSAN_OPTIONS", "history_size=2")};
}

void Restartable::start() {
  std::vector<std::string> argv{binary_, "--port=" + std::to_string(port_)};
  if (!keeps_log) argv.insert(argv.begin(), {"sh", "-c", "exec \"$0\" \"$@\" >/dev/null"});
  argv.insert(argv.end(), flags.begin(), flags.end());
  process_ = std::make_unique<Process>(argv, options);
  EXPECT_TRUE(
      eventually([this] { return !running() || get(port_, "/health").status == 200; }, kPatience));
  ASSERT_TRUE(running()) << binary_ << ": " << process_->err();
}

std::optional<int> Restartable::end(int signal) {
  EXPECT_TRUE(running()) << binary_ << " had ended by itself";
  process_->signal(signal);
  const auto status = process_->wait(kPatience);
  log_ += process_->out();
  EXPECT_EQ(process_->err(), "") << binary_;  // a sanitizer's words, for example
  process_.reset();
  return status;
}

void Chaos::expect_nothing_left(const Footprint& before) {
  if (a_.running()) a_.kill();
  expect_footprint(b_.pid(), before);
  b_.stop();
}

void Chaos::expect_right_answer() const { chaos::expect_right_answer(b_.port()); }

void expect_footprint(pid_t pid, const Footprint& before) {
  Footprint now;
  EXPECT_TRUE(eventually([&] {
    now = footprint(pid);
    return now.files <= before.files && now.threads <= before.threads &&
           now.rss_kib <= before.rss_kib + kKeptKib;
  })) << "before: "
      << to_text(before) << ", now: " << to_text(now);
  report("before " + to_text(before) + ", after " + to_text(now));
}

void expect_right_answer(std::uint16_t service_b) {
  const auto result = get(service_b, "/call-echo?msg=one");
  EXPECT_EQ(result.status, 200) << result.error << result.body;
}

void report(const std::string& text) {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::cout << "chaos: " << test->test_suite_name() << "." << test->name() << ": " << text
            << " (CHAOS_SEED=" << chaos_seed() << ")" << std::endl;
}

}  // namespace tests::chaos
