#include "common/http/loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace common::http {

constexpr std::size_t kEventsPerTurn = 64;

Watcher::~Watcher() {
  close_fd();
  schedule(kNever);
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
  // epoll(7): close(2) alone does not remove it while a forked process has a copy.
  epoll_ctl(loop_.epoll_, EPOLL_CTL_DEL, fd_, nullptr);
  ::close(fd_);
  fd_ = -1;
}

void Watcher::set_deadline(Clock::time_point deadline) {
  deadline_ = deadline;
  if (deadline < scheduled_ && !closed_) schedule(deadline);
}

void Watcher::schedule(Clock::time_point when) {
  if (scheduled_ != kNever) loop_.timers_.erase({scheduled_, this});
  scheduled_ = when;
  if (when != kNever) loop_.timers_.emplace(when, this);
}

void Watcher::run_again_later() {
  if (!std::exchange(queued_, true)) loop_.run_again_.push_back(this);
}

void Watcher::close() {
  if (std::exchange(closed_, true)) return;
  close_fd();
  schedule(kNever);
  if (queued_) std::erase(loop_.run_again_, this);
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
      const auto& event = events[static_cast<std::size_t>(i)];
      auto* const watcher = static_cast<Watcher*>(event.data.ptr);
      if (watcher == nullptr) {
        run_posted();
      } else if (!watcher->closed_) {
        watcher->on_events(event.events);
      }
    }
    run_timers();
    if (!run_again_.empty()) {
      auto& watcher = *run_again_.front();
      run_again_.pop_front();
      watcher.queued_ = false;
      watcher.on_events(0);
    }
    closed_.clear();
  }
}

/// For epoll_wait(2), in milliseconds.
int Loop::timeout() const {
  if (!run_again_.empty()) return 0;
  if (timers_.empty()) return -1;
  const auto left = timers_.begin()->first - Clock::now();
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::clamp<std::int64_t>(milliseconds, 0, 60'000));
}

void Loop::run_timers() {
  if (timers_.empty()) return;
  const auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto& watcher = *timers_.begin()->second;
    const auto deadline = watcher.deadline_;
    watcher.schedule(deadline > now ? deadline : kNever);
    if (deadline > now) continue;  // it was moved to a later time
    watcher.deadline_ = kNever;
    watcher.on_deadline();
  }
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

void Loop::drain() {
  std::vector<Watcher*> all;  // one of them may close another
  for (const auto& each : watchers_) all.push_back(each.get());
  for (auto* const each : all) {
    if (!each->closed_) each->on_drain();
  }
}

}  // namespace common::http
