#include "common/http/resolver.hpp"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "common/http/loop.hpp"

namespace common::http {
namespace {

constexpr std::chrono::milliseconds kPatience{25};
constexpr std::size_t kMaxAddresses = 32;  // a name may have thousands: no call has time for more
constexpr long kMaxThreads = 64;

/// What getaddrinfo(3) says.
struct Answer {
  Resolution found;
  bool none = false;  // nobody knows such an address; not that somebody could not be asked
};

Answer get_addresses(const std::string& host, std::uint16_t port, int family, int flags = 0) {
  addrinfo hints{};
  hints.ai_flags = flags | AI_NUMERICSERV;
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (status != 0) {
    auto why = look_up_error(status).message();
    // Where no file is left it says that there is no such name.
    const int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return {{{}, std::generic_category().message(errno), true}};
    close(probe);
    // EAI_NONAME would not do: behind a question that failed, the search list may end with it.
    return {{{}, std::move(why)}, status == EAI_NODATA};
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  Resolution found;
  for (const auto* each = list; each != nullptr && found.addresses.size() < kMaxAddresses;
       each = each->ai_next) {
    auto& address = found.addresses.emplace_back();
    address.size = each->ai_addrlen;
    std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
  }
  return {std::move(found)};
}

/// The errors of getaddrinfo(3), which are no errnos.
struct LookUpErrors final : std::error_category {
  const char* name() const noexcept override { return "getaddrinfo"; }
  std::string message(int error) const override { return gai_strerror(error); }
};

Resolution no_thread() { return {{}, "no thread for the look-up", true}; }

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

std::error_code look_up_error(int status) {
  static const LookUpErrors errors;
  if (status == EAI_SYSTEM) return {errno, std::generic_category()};
  return {status, errors};
}

struct Resolver::Shared : std::enable_shared_from_this<Shared> {
  struct LookUp {
    const int family;
    bool under_way = false;
    std::uint64_t round = 0;  // in which it was asked
    Clock::time_point begun{};
    // The rounds in which the addresses of this family that are known were asked for, and in which
    // there were none for certain. 0: never.
    std::uint64_t known_in = 0;
    std::uint64_t none_in = 0;
  };

  Shared(std::string name, std::uint16_t number, std::chrono::milliseconds time)
      : host(std::move(name)), port(number), give_up_after(time) {}

  void serve();
  void look_up(std::unique_lock<std::mutex>& lock);
  void ask(LookUp& look_up);
  void take(LookUp& look_up, std::uint64_t asked_in, Answer answer);
  void forget(LookUp& kind);
  Resolution known_since(std::uint64_t asked_in) const;
  // Of the look-ups that were asked in this round. What an older one says may be old.
  bool is_awaited(const LookUp& each) const { return each.round == round && each.under_way; }
  bool is_answered(const LookUp& each) const { return each.round == round && !each.under_way; }

  const std::string host;
  const std::uint16_t port;
  const std::chrono::milliseconds give_up_after;
  std::mutex mutex;  // guards all below
  std::condition_variable changed;
  LookUp both{AF_UNSPEC};
  LookUp v4{AF_INET};
  LookUp v6{AF_INET6};
  std::uint64_t round = 0;
  Resolution known{{}, "no answer"};  // the last addresses
  std::vector<Done> waiting;
  enum { kIdle, kLookingUp, kCalling } state = kIdle;  // of the thread in serve()
};

/// Makes rounds of look-ups while anybody waits. On a thread of its own.
void Resolver::Shared::serve() {
  std::unique_lock lock(mutex);
  while (!waiting.empty()) {
    look_up(lock);
    const auto ready = std::exchange(waiting, {});
    const auto result = known_since(round);
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
  ++round;
  const auto apart = [this] { return !is_awaited(v4) && !is_awaited(v6); };
  ask(both);
  changed.wait_for(lock, kPatience, [this] { return !is_awaited(both); });
  if (is_answered(both)) {
    // It is content with one family, though the question for the other may have failed.
    for (auto [kind, other] : {std::pair(&v4, &v6), std::pair(&v6, &v4)}) {
      if (other->known_in == round && kind->known_in != 0 && kind->known_in < round) {
        ask(*kind);
      }
    }
    changed.wait_for(lock, kPatience, apart);
    return;
  }
  ask(v4);
  ask(v6);
  changed.wait_for(lock, give_up_after,
                   [this] { return is_answered(both) || !known.addresses.empty(); });
  changed.wait_for(lock, kPatience, [&] { return is_answered(both) || apart(); });
}

/// Starts a look-up, unless it is under way.
void Resolver::Shared::ask(LookUp& look_up) {
  const auto now = Clock::now();
  if (look_up.under_way && now - look_up.begun < give_up_after) return;
  if (weak_from_this().use_count() > kMaxThreads) return;  // each owns this
  look_up.round = round;
  look_up.begun = now;
  look_up.under_way = start_thread([self = shared_from_this(), &look_up, asked_in = round] {
    self->take(look_up, asked_in, get_addresses(self->host, self->port, look_up.family));
  });
  if (!look_up.under_way && known.addresses.empty()) known = no_thread();
}

void Resolver::Shared::take(LookUp& look_up, std::uint64_t asked_in, Answer answer) {
  const std::lock_guard lock(mutex);
  if (look_up.round != asked_in) return;  // it was given up
  look_up.under_way = false;
  auto& found = answer.found.addresses;
  for (auto* kind : {&v4, &v6}) {
    if (answer.none && kind == &look_up) kind->none_in = asked_in;
    const auto is_of_it = [kind](const SocketAddress& each) {
      return each.storage.ss_family == kind->family;
    };
    // Where none is found, those that are known stay in use: the answer for them may be lost.
    if (std::ranges::none_of(found, is_of_it)) continue;
    if (kind->known_in > asked_in) {
      std::erase_if(found, is_of_it);
    } else {
      forget(*kind);
      kind->known_in = asked_in;
    }
  }
  auto& addresses = known.addresses;
  addresses.insert(look_up.family == AF_INET6 ? addresses.end() : addresses.begin(), found.begin(),
                   found.end());
  // A family that is no more, while the other one is, has no use.
  for (auto [kind, other] : {std::pair(&v4, &v6), std::pair(&v6, &v4)}) {
    if (kind->none_in > kind->known_in && other->known_in >= kind->none_in) {
      forget(*kind);
    }
  }
  if (addresses.empty()) {
    known = std::move(answer.found);
  } else {
    known.error.clear();
    known.overloaded = false;
  }
  changed.notify_all();
}

void Resolver::Shared::forget(LookUp& kind) {
  kind.known_in = 0;
  std::erase_if(known.addresses,
                [&](const SocketAddress& each) { return each.storage.ss_family == kind.family; });
}

/// `known`, as seen by one who waits for the look-ups up to this round.
Resolution Resolver::Shared::known_since(std::uint64_t asked_in) const {
  const auto ended = [asked_in](const LookUp& each) {
    return !each.under_way || each.round > asked_in;
  };
  // Where a family is known to have none any more, the other one's are to come in its place.
  const auto is_current = [&ended](const LookUp& kind, const LookUp& other) {
    return ended(kind) && (kind.none_in <= kind.known_in || ended(other));
  };
  auto result = known;
  result.complete = ended(both) || (ended(v4) && ended(v6));
  result.current =
      result.complete || std::ranges::all_of(result.addresses, [&](const auto& each) {
        return each.storage.ss_family == AF_INET ? is_current(v4, v6) : is_current(v6, v4);
      });
  result.round = asked_in;
  return result;
}

Resolver::Resolver(std::string host, std::uint16_t port, std::chrono::milliseconds give_up_after) {
  // A zone is the name of an interface, whose number may change: looked up each time.
  if (host.find('%') == std::string::npos) {
    auto found = get_addresses(host, port, AF_UNSPEC, AI_NUMERICHOST).found;
    if (!found.addresses.empty()) literal_ = std::move(found);
  }
  shared_ = std::make_shared<Shared>(std::move(host), port, give_up_after);
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
  const auto result = shared_->known.addresses.empty() ? no_thread() : shared_->known;
  lock.unlock();
  done(result);
}

Resolution Resolver::latest(const Resolution& earlier) const {
  if (literal_) return *literal_;
  const std::lock_guard lock(shared_->mutex);
  return shared_->known_since(earlier.round);
}

}  // namespace common::http
