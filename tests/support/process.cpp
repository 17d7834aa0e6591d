#include "support/process.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string_view>

namespace tests {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds kPatience{20};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// The variables that configure the services, and their colours. A test must see the defaults even
// where the developer's shell or the CI sets, say, PORT.
std::vector<std::string> service_variables() {
  return {"HOST",           "PORT",          "LOG_LEVEL",  "LOG_FORMAT",         "MAX_CONNECTIONS",
          "DRAIN_DELAY",    "IDLE_TIMEOUT",  "ADMIN_PORT", "ERROR_RATE",         "DRAIN_TIMEOUT",
          "DELAY",          "SERVICE_A_URL", "TIMEOUT",    "MAX_UPSTREAM_CALLS", "NO_COLOR",
          "CLICOLOR_FORCE", "TERM"};
}

std::vector<std::string> make_environment(const ProcessOptions& options) {
  const auto name_of = [](std::string_view assignment) {
    return std::string(assignment.substr(0, assignment.find('=')));
  };
  auto dropped = service_variables();
  for (const auto& assignment : options.environment) dropped.push_back(name_of(assignment));
  auto result = options.environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::ranges::find(dropped, name_of(*entry)) == dropped.end()) result.emplace_back(*entry);
  }
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (auto& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

// Appends what is there to read; false at the end of the stream.
bool drain(int fd, std::string& text) {
  std::array<char, 16384> block{};
  while (true) {
    const auto count = ::read(fd, block.data(), block.size());
    if (count > 0) {
      text.append(block.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      return count != 0 && errno == EAGAIN;
    }
  }
}

long status_field(pid_t pid, std::string_view name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) return std::stol(line.substr(name.size()));
  }
  throw std::runtime_error("no " + std::string(name) + " for process " + std::to_string(pid));
}

}  // namespace

Process::Process(std::vector<std::string> argv, const ProcessOptions& options)
    : stop_fd_(check(::eventfd(0, EFD_CLOEXEC), "eventfd")) {
  auto environment = make_environment(options);
  const auto argv_pointers = pointers(argv);
  const auto environment_pointers = pointers(environment);
  const auto most = options.max_open_files.value_or(0);
  const rlimit files{most, most};
  const UniqueFd in(check(::open("/dev/null", O_RDONLY | O_CLOEXEC), "open /dev/null"));
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  Pipe failure = make_pipe();  // gets errno when the program cannot be run
  out_fd_ = std::move(out.read);
  err_fd_ = std::move(err.read);
  for (const int fd : {out_fd_.get(), err_fd_.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);

  // Between fork and exec: nothing here may allocate or lock.
  const auto become_child = [&, parent = ::getpid()] {
    for (int number = 1; number < NSIG; ++number) {
      if (number != SIGKILL && number != SIGSTOP) ::signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    // Only what dup2 puts in place below goes on to the program: the test's own parent may have
    // left files open, and open_files() would count them.
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 &&
        ::getppid() == parent &&  // it may have ended before prctl
        ::dup2(in.get(), STDIN_FILENO) >= 0 && ::dup2(out.write.get(), STDOUT_FILENO) >= 0 &&
        ::dup2(err.write.get(), STDERR_FILENO) >= 0 &&
        (!options.file_3 || (::dup2(*options.file_3, 3) == 3 && ::fcntl(3, F_SETFD, 0) == 0)) &&
        (!options.max_open_files || ::setrlimit(RLIMIT_NOFILE, &files) == 0)) {
      ::execvpe(argv_pointers[0], argv_pointers.data(), environment_pointers.data());
    }
    const int error = errno;
    [[maybe_unused]] const auto written = ::write(failure.write.get(), &error, sizeof error);
    ::_exit(127);
  };
  // PR_SET_PDEATHSIG fires when the THREAD that forked ends, so that is the one that reads.
  reader_ = std::thread([&become_child, this] {
    const pid_t pid = ::fork();
    if (pid == 0) become_child();
    {
      const std::lock_guard lock(mutex_);
      pid_ = pid > 0 ? pid : -errno;
      // By number: the declaration in Debian 12's glibc 2.36 lacks extern "C".
      pid_fd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    }
    changed_.notify_all();
    if (pid > 0) read_until_end();
  });
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return pid_ != 0; });
  }
  for (auto* end : {&out.write, &err.write, &failure.write}) end->reset();
  int error = -pid_;
  ssize_t count = 0;
  do {
    count = ::read(failure.read.get(), &error, sizeof error);
  } while (count < 0 && errno == EINTR);
  if (pid_ > 0 && count != sizeof error) return;
  reader_.join();
  throw std::system_error(error, std::generic_category(), argv[0]);
}

Process::~Process() {
  signal(SIGCONT);
  kill();
  // A grandchild may still hold the pipes, so their end is not something to wait for.
  ::eventfd_write(stop_fd_.get(), 1);
  reader_.join();
}

void Process::read_until_end() {
  std::array<pollfd, 4> polled{{{out_fd_.get(), POLLIN, 0},
                                {err_fd_.get(), POLLIN, 0},
                                {pid_fd_.get(), POLLIN, 0},
                                {stop_fd_.get(), POLLIN, 0}}};
  auto& [out, err, end, stop] = polled;
  while (stop.revents == 0 && (out.fd >= 0 || err.fd >= 0 || end.fd >= 0)) {
    if (::poll(polled.data(), polled.size(), -1) < 0) continue;

    const std::lock_guard lock(mutex_);
    // What the child wrote before it ended is in the pipes by now, so its status comes after its
    // output.
    const bool ended = end.fd >= 0 && end.revents != 0;
    if (out.fd >= 0 && (out.revents != 0 || ended) && !drain(out.fd, out_)) out.fd = -1;
    if (err.fd >= 0 && (err.revents != 0 || ended) && !drain(err.fd, err_)) err.fd = -1;
    if (ended) {
      int status = 0;
      check(::waitpid(pid_, &status, 0), "waitpid");
      status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      end.fd = -1;
    }
    changed_.notify_all();
  }
}

bool Process::running() const {
  const std::lock_guard lock(mutex_);
  return !status_;
}

bool Process::signal(int number) {
  const std::lock_guard lock(mutex_);
  return !status_ && ::kill(pid_, number) == 0;
}

void Process::hang() {
  signal(SIGSTOP);
  siginfo_t stopped{};
  ::waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED);
}

void Process::kill() {
  signal(SIGKILL);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return status_.has_value(); });
}

std::optional<int> Process::wait(milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, Clock::now() + timeout, [this] { return status_.has_value(); });
  return status_;
}

std::string Process::out() const {
  const std::lock_guard lock(mutex_);
  return out_;
}

std::string Process::err() const {
  const std::lock_guard lock(mutex_);
  return err_;
}

std::vector<std::string> Process::lines() const {
  const std::string text = out();
  std::vector<std::string> result;
  std::size_t start = 0;
  for (auto end = text.find('\n'); end != std::string::npos; end = text.find('\n', start)) {
    result.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return result;
}

bool Process::wait_for(const std::function<bool(const std::string& out)>& predicate,
                       milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::unique_lock lock(mutex_);
  while (!predicate(out_)) {
    if (status_ || Clock::now() >= deadline) return false;
    changed_.wait_until(lock, deadline);
  }
  return true;
}

long rss_kib(pid_t pid) { return status_field(pid, "VmRSS:"); }

long thread_count(pid_t pid) { return status_field(pid, "Threads:"); }

long open_files(pid_t pid) {
  const std::filesystem::directory_iterator entries("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<long>(std::distance(begin(entries), end(entries)));
}

namespace {

// The port that the start line ("listening", in any format) in `out` names.
std::optional<std::uint16_t> listening_port(const std::string& out) {
  static const std::regex start_line(R"(listening.*[ "]port"?[=:](\d+).*\n)");
  std::smatch match;
  if (!std::regex_search(out, match, start_line)) return std::nullopt;
  return static_cast<std::uint16_t>(std::stoi(match[1]));
}

std::vector<std::string> with_port(const std::string& binary, std::vector<std::string> flags,
                                   const ProcessOptions& options) {
  const auto sets_port = [](const std::string& text) {
    return text == "--port" || text.starts_with("--port=") || text.starts_with("PORT=");
  };
  flags.insert(flags.begin(), binary);
  if (std::ranges::none_of(flags, sets_port) &&
      std::ranges::none_of(options.environment, sets_port)) {
    flags.emplace_back("--port=0");
  }
  return flags;
}

}  // namespace

Service::Service(const std::string& binary, std::vector<std::string> flags,
                 const ProcessOptions& options)
    : process_(with_port(binary, std::move(flags), options), options) {
  const auto started = [this](const std::string& out) {
    const auto port = listening_port(out);
    port_ = port.value_or(0);
    return port.has_value();
  };
  if (!process_.wait_for(started, kPatience)) {
    throw std::runtime_error(binary + " did not start\nstdout: " + process_.out() +
                             "\nstderr: " + process_.err());
  }
}

std::string Service::url() const { return "http://127.0.0.1:" + std::to_string(port_); }

std::optional<int> Service::stop() {
  process_.signal(SIGTERM);
  return process_.wait(kPatience);
}

}  // namespace tests
