#include "support/network.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace tests {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "two-services-test-";
constexpr const char* kDeadEnd = "02:00:00:00:00:99";  // the hardware address of nobody

struct Done {
  int status;
  std::string text;
};

Done run_program(const std::vector<std::string>& argv) {
  Process process(argv);
  const auto status = process.wait(std::chrono::seconds(20));
  return {status.value_or(-1), process.out() + process.err()};
}

void must_run(const std::vector<std::string>& argv) {
  const auto done = run_program(argv);
  if (done.status == 0) return;
  std::string line;
  for (const auto& each : argv) line += each + " ";
  throw std::runtime_error(line + "failed: " + done.text);
}

fs::path configuration_of(const std::string& name) { return fs::path("/etc/netns") / name; }

void remove(const std::string& name) {
  run_program({"ip", "netns", "del", name});
  std::error_code ignored;
  fs::remove_all(configuration_of(name), ignored);
  fs::remove("/etc/netns", ignored);  // where it is empty
}

// Those of test programs that were killed before they could do it themselves.
void remove_left_behind() {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator("/run/netns", error)) {
    const auto name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const auto pid = static_cast<pid_t>(std::atoi(name.c_str() + kPrefix.size()));
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) names.push_back(name);
  }
  for (const auto& name : names) remove(name);
}

}  // namespace

std::optional<std::string> why_no_network() {
  if (::geteuid() != 0) return "network namespaces need root";
  try {
    const auto name = std::string(kPrefix) + std::to_string(::getpid()) + "-try";
    const auto made = run_program({"ip", "netns", "add", name});
    if (made.status != 0) return "no network namespace can be made: " + made.text;
    const auto joined = run_program(
        {"ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two"});
    remove(name);
    if (joined.status != 0) return "no veth(4) can be made: " + joined.text;
  } catch (const std::system_error& error) {
    return std::string("iproute2 is not installed: ") + error.what();
  }
  return std::nullopt;
}

bool has_ipv6() {
  std::ifstream addresses("/proc/net/if_inet6");
  return addresses.peek() != std::ifstream::traits_type::eof();
}

bool can_filter_packets() {
  try {
    return run_program({"nft", "list", "tables"}).status == 0;
  } catch (const std::system_error&) {
    return false;
  }
}

Network::Network() : prefix_(std::string(kPrefix) + std::to_string(::getpid()) + "-") {
  remove_left_behind();
  before_ = UniqueFd(check(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "ns/net"));
  for (const char* side : {"a", "b"}) {
    must_run({"ip", "netns", "add", name(side)});
    ip(side, {"link", "set", "lo", "up"});
  }
  ip("a", {"link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", name("b")});
  for (const std::string side : {"a", "b"}) {
    set(side, "ipv6/conf/all/disable_ipv6", "1");  // no chatter of its own on the wire
    ip(side,
       {"addr", "add", std::string(side == "a" ? kAddressA : kAddressB) + "/24", "dev", "wire"});
    ip(side, {"link", "set", "wire", "up"});
  }
  silence("b", kSilentAddress);
  const UniqueFd inside(
      check(::open(("/run/netns/" + name("b")).c_str(), O_RDONLY | O_CLOEXEC), "netns"));
  check(::setns(inside.get(), CLONE_NEWNET), "setns");
}

Network::~Network() {
  ::setns(before_.get(), CLONE_NEWNET);
  for (const char* side : {"a", "b"}) remove(name(side));
}

void Network::ip(const std::string& side, std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {"ip", "-n", name(side)});
  must_run(arguments);
}

void Network::run(const std::string& side, std::vector<std::string> argv) const {
  argv.insert(argv.begin(), {"ip", "netns", "exec", name(side)});
  must_run(argv);
}

void Network::set(const std::string& side, const std::string& file,
                  const std::string& value) const {
  run(side, {"sh", "-c", "if [ -e \"$0\" ]; then echo \"$1\" > \"$0\"; fi", "/proc/sys/net/" + file,
             value});
}

void Network::set_etc(const std::string& side, const std::string& name,
                      const std::string& text) const {
  const auto folder = configuration_of(this->name(side));
  fs::create_directories(folder);
  std::ofstream(folder / name) << text;
}

void Network::silence(const std::string& side, const std::string& address) const {
  ip(side, {"neigh", "replace", address, "lladdr", kDeadEnd, "dev", "wire", "nud", "permanent"});
}

void Network::unsilence(const std::string& side, const std::string& address) const {
  ip(side, {"neigh", "del", address, "dev", "wire"});
}

Service Network::start(const std::string& side, const std::string& binary,
                       std::vector<std::string> flags) const {
  flags.insert(flags.begin(), {"netns", "exec", name(side), binary});
  return Service("ip", flags, {.environment = {"PORT=0"}});
}

}  // namespace tests
