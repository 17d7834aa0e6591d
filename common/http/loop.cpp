#include "common/http/loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace common::http {
namespace {

constexpr std::size_t kEventsPerTurn = 64;

class Timer final : public Watcher {
 public:
  Timer(Loop& loop, Clock::time_point when, std::function<void()> task)
      : Watcher(loop), task_(std::move(task)) {
    set_deadline(when);
  }
  void on_events(std::uint32_t) override {}
  void on_deadline() override {
    close();
    task_();
  }

 private:
  const std::function<void()> task_;
};

}  // namespace

Watcher::Watcher(Loop& loop) : loop_(loop) { loop_.timers_.emplace(armed_, this); }

Watcher::~Watcher() {
  close_fd();
  loop_.timers_.erase({armed_, this});
}

bool Watcher::watch(int fd, std::uint32_t events) {
  close_fd();
  fd_ = fd;
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  return epoll_ctl(loop_.epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Watcher::close_fd() {
  if (fd_ < 0) return;
  // epoll(7): close alone takes it out only when no process that was forked meanwhile has it, too.
  epoll_ctl(loop_.epoll_, EPOLL_CTL_DEL, fd_, nullptr);
  ::close(fd_);
  fd_ = -1;
}

void Watcher::set_deadline(Clock::time_point deadline) {
  deadline_ = deadline;
  if (deadline < armed_ && !closed_) arm(deadline);
}

// Moves its node, which needs no memory.
void Watcher::arm(Clock::time_point when) {
  auto node = loop_.timers_.extract({armed_, this});
  armed_ = when;
  node.value().first = when;
  loop_.timers_.insert(std::move(node));
}

void Watcher::close() {
  if (closed_) return;
  closed_ = true;
  close_fd();
  arm(kNever);
  if (waits_its_turn()) turn_.splice(turn_.begin(), loop_.again_, node_);
  loop_.closed_.splice(loop_.closed_.end(), loop_.watchers_, self_);
}

Loop::Loop(std::size_t index)
    : index_(index),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ < 0 || wake_ < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event) != 0) {
    throw std::system_error(errno, std::generic_category(), "epoll");
  }
}

Loop::~Loop() {
  watchers_.clear();
  closed_.clear();
  ::close(epoll_);
  ::close(wake_);
}

void Loop::run() {
  while (!stopped_) {
    std::array<epoll_event, kEventsPerTurn> events;
    const int count = epoll_wait(epoll_, events.data(), kEventsPerTurn, timeout());
    for (int i = 0; i < count; ++i) {
      auto* const watcher = static_cast<Watcher*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (watcher == nullptr) {
        run_posted();
      } else if (!watcher->closed_) {
        watcher->on_events(events[static_cast<std::size_t>(i)].events);
      }
    }
    fire_timers();
    if (!again_.empty()) {
      auto& watcher = *again_.front();
      watcher.turn_.splice(watcher.turn_.begin(), again_, watcher.node_);
      watcher.on_events(0);
    }
    closed_.clear();
  }
}

Clock::time_point Loop::next_deadline() const {
  return timers_.empty() ? kNever : timers_.begin()->first;
}

int Loop::timeout() const {
  if (!again_.empty()) return 0;
  if (next_deadline() == kNever) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_deadline() - Clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
}

void Loop::fire_timers() {
  if (next_deadline() == kNever) return;
  const auto now = Clock::now();
  while (next_deadline() <= now) {
    auto& watcher = *timers_.begin()->second;
    if (watcher.deadline_ > now) {
      watcher.arm(watcher.deadline_);
      continue;
    }
    watcher.deadline_ = kNever;
    watcher.arm(kNever);
    watcher.on_deadline();
  }
}

void Loop::again(Watcher& watcher) {
  again_.splice(again_.end(), watcher.turn_);  // nothing, if it waits already
}

void Loop::stop() {
  stopped_ = true;
  eventfd_write(wake_, 1);
}

void Loop::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  eventfd_write(wake_, 1);
}

void Loop::run_posted() {
  eventfd_t count = 0;
  eventfd_read(wake_, &count);
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (const auto& task : tasks) task();
}

void Loop::after(std::chrono::milliseconds delay, std::function<void()> task) {
  emplace<Timer>(Clock::now() + delay, std::move(task));
}

void Loop::drain() {
  std::vector<Watcher*> all;  // one may close another
  for (const auto& each : watchers_) all.push_back(each.get());
  for (auto* const each : all) {
    if (!each->closed_) each->on_drain();
  }
}

}  // namespace common::http
