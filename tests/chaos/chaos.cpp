#include "chaos/chaos.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <thread>
#include <unordered_set>

#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

bool can_be_bound(std::uint16_t port) {
  const UniqueFd fd(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
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

void pause(std::mt19937& random, milliseconds low, milliseconds high) {
  std::this_thread::sleep_for(
      milliseconds(draw(random, static_cast<int>(low.count()), static_cast<int>(high.count()))));
}

std::uint16_t fixed_port(std::mt19937& random) {
  int low = 32'768;
  int high = 60'999;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> low >> high;
  constexpr int kFirst = 10'000;
  // Starts at a random one: other test programs look for theirs at the same time.
  const int count = std::max(1, low - kFirst);
  const int start = draw(random, 0, count - 1);
  for (int i = 0; i < count; ++i) {
    const auto port = static_cast<std::uint16_t>(kFirst + (start + i) % count);
    if (can_be_bound(port)) return port;
  }
  throw std::runtime_error("no free port below " + std::to_string(low));
}

ProcessOptions service_options() {
  const auto with = [](const char* name, const char* option) {
    const char* set = std::getenv(name);
    return std::string(name) + "=" + (set != nullptr ? std::string(set) + ":" : "") + option;
  };
  return {.environment = {with("ASAN_OPTIONS", "quarantine_size_mb=4"),
                          with("TSAN_OPTIONS", "history_size=2")}};
}

Footprint footprint(pid_t pid) { return {open_files(pid), thread_count(pid), rss_kib(pid)}; }

std::string to_text(const Footprint& footprint) {
  return "files=" + std::to_string(footprint.files) +
         " threads=" + std::to_string(footprint.threads) +
         " rss=" + std::to_string(footprint.rss_kib) + "KiB";
}

std::string difference(pid_t pid, const Footprint& before) {
  Footprint now;
  const auto same = [&] {
    now = footprint(pid);
    return now.files <= before.files && now.threads <= before.threads &&
           now.rss_kib <= before.rss_kib + kKeptKib;
  };
  if (eventually(same)) return {};
  return "before: " + to_text(before) + ", now: " + to_text(now);
}

Restartable::Restartable(std::string binary, std::uint16_t port, std::vector<std::string> flags)
    : binary_(std::move(binary)), port_(port), flags_([&] {
        flags.push_back("--port=" + std::to_string(port));
        return std::move(flags);
      }()) {}

void Restartable::start() {
  service_ = std::make_unique<Service>(binary_, flags_, service_options());
}

void Restartable::kill() {
  service_->process().kill();
  keep_output();
}

std::optional<int> Restartable::stop() {
  service_->process().signal(SIGTERM);
  const auto status = service_->process().wait(kPatience);
  keep_output();
  return status;
}

void Restartable::keep_output() {
  log_ += service_->process().out();
  errors_ += service_->process().err();
  service_.reset();
}

std::vector<std::string> logged(const std::string& log, const std::vector<std::string>& ids) {
  constexpr std::string_view kKey = " request_id=";
  std::unordered_set<std::string_view> seen;
  const std::string_view text = log;
  for (auto at = text.find(kKey); at != std::string_view::npos; at = text.find(kKey, at)) {
    at += kKey.size();
    seen.insert(text.substr(at, text.find_first_of(" \n", at) - at));
  }
  std::vector<std::string> result;
  for (const auto& id : ids) {
    if (seen.contains(id)) result.push_back(id);
  }
  return result;
}

}  // namespace tests::chaos
