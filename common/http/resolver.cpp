#include "common/http/resolver.hpp"

#include <netdb.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace common::http {
namespace {

constexpr std::chrono::milliseconds kPatience{25};
constexpr std::size_t kMaxAddresses = 32;  // a name may have thousands: no call has time for more

Resolution get_addresses(const std::string& host, std::uint16_t port, int family, int flags = 0) {
  addrinfo hints{};
  hints.ai_flags = flags | AI_NUMERICSERV;
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (status == EAI_SYSTEM) return {{}, std::generic_category().message(errno)};
  if (status != 0) return {{}, gai_strerror(status)};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  Resolution found;
  for (const auto* each = list; each != nullptr && found.addresses.size() < kMaxAddresses;
       each = each->ai_next) {
    auto& address = found.addresses.emplace_back();
    address.size = each->ai_addrlen;
    std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
  }
  return found;
}

/// Runs `work` on a thread that nobody waits for. Returns false for want of threads.
template <typename Work>
bool start_thread(Work work) {
  try {
    std::thread(std::move(work)).detach();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace

struct Resolver::Shared : std::enable_shared_from_this<Shared> {
  struct LookUp {
    const int family;
    enum { kIdle, kAsked, kLate, kAnswered } state = kIdle;  // kLate: asked in an earlier round
  };

  Shared(std::string name, std::uint16_t number) : host(std::move(name)), port(number) {}

  void serve();
  void look_up(std::unique_lock<std::mutex>& lock);
  void ask(LookUp& look_up);
  void take(LookUp& look_up, Resolution found);

  const std::string host;
  const std::uint16_t port;
  std::mutex mutex;  // guards all below
  std::condition_variable changed;
  LookUp both{AF_UNSPEC};
  LookUp v4{AF_INET};
  LookUp v6{AF_INET6};
  Resolution known{{}, "no thread for the look-up", true};  // the last addresses
  std::vector<Done> waiting;
  enum { kIdle, kLookingUp, kCalling } state = kIdle;  // of the thread in serve()
};

/// Makes rounds of look-ups while anybody waits. On a thread of its own.
void Resolver::Shared::serve() {
  std::unique_lock lock(mutex);
  while (!waiting.empty()) {
    look_up(lock);
    const auto ready = std::exchange(waiting, {});
    auto result = known;
    result.complete = both.state == LookUp::kAnswered ||
                      (v4.state == LookUp::kAnswered && v6.state == LookUp::kAnswered);
    state = kCalling;
    lock.unlock();
    for (const auto& done : ready) done(result);
    lock.lock();
    state = kLookingUp;
    changed.notify_all();
  }
  state = kIdle;
}

/// One round. Returns when `known` is what to go on with.
void Resolver::Shared::look_up(std::unique_lock<std::mutex>& lock) {
  for (auto* each : {&both, &v4, &v6}) {
    if (each->state == LookUp::kAsked) each->state = LookUp::kLate;
    if (each->state == LookUp::kAnswered) each->state = LookUp::kIdle;
  }
  ask(both);
  changed.wait_for(lock, kPatience, [&] { return both.state != LookUp::kAsked; });
  if (both.state == LookUp::kAnswered) return;
  ask(v4);
  ask(v6);
  const auto answered = [&] { return both.state == LookUp::kAnswered; };
  changed.wait(lock, [&] { return answered() || !known.addresses.empty(); });
  changed.wait_for(lock, kPatience, [&] {
    return answered() || (v4.state != LookUp::kAsked && v6.state != LookUp::kAsked);
  });
}

/// Starts a look-up, unless it is under way.
void Resolver::Shared::ask(LookUp& look_up) {
  if (look_up.state != LookUp::kIdle) return;
  const bool started = start_thread([self = shared_from_this(), &look_up] {
    self->take(look_up, get_addresses(self->host, self->port, look_up.family));
  });
  look_up.state = started ? LookUp::kAsked : LookUp::kAnswered;
}

void Resolver::Shared::take(LookUp& look_up, Resolution found) {
  const std::lock_guard lock(mutex);
  look_up.state = LookUp::kAnswered;
  known.no_thread = false;
  auto& addresses = known.addresses;
  if (!found.addresses.empty()) {
    // Those of the other family stay in use: the answer for them may be lost.
    std::erase_if(addresses, [&](const SocketAddress& each) {
      return look_up.family == AF_UNSPEC || look_up.family == each.storage.ss_family;
    });
    addresses.insert(look_up.family == AF_INET6 ? addresses.end() : addresses.begin(),
                     found.addresses.begin(), found.addresses.end());
    known.error.clear();
  } else if (addresses.empty()) {
    known.error = std::move(found.error);
  }
  changed.notify_all();
}

Resolver::Resolver(std::string host, std::uint16_t port) {
  // A zone is the name of an interface, whose number may change: looked up each time.
  if (host.find('%') == std::string::npos) {
    auto found = get_addresses(host, port, AF_UNSPEC, AI_NUMERICHOST);
    if (!found.addresses.empty()) literal_ = std::move(found);
  }
  shared_ = std::make_shared<Shared>(std::move(host), port);
}

Resolver::~Resolver() {
  std::unique_lock lock(shared_->mutex);
  shared_->waiting.clear();
  shared_->changed.wait(lock, [&] { return shared_->state != Shared::kCalling; });
}

void Resolver::resolve(Done done) {
  if (literal_) return done(*literal_);
  std::unique_lock lock(shared_->mutex);
  if (shared_->state == Shared::kIdle && start_thread([self = shared_] { self->serve(); })) {
    shared_->state = Shared::kLookingUp;
  }
  if (shared_->state != Shared::kIdle) return shared_->waiting.push_back(std::move(done));
  const auto result = shared_->known;
  lock.unlock();
  done(result);
}

}  // namespace common::http
