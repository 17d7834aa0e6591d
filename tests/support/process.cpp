#include "support/process.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <deque>
#include <filesystem>
#include <fstream>
#include <future>
#include <stdexcept>

namespace tests {
namespace {

using std::chrono::milliseconds;

// Runs functions one after the other on one thread that lives as long as the program.
//
// PR_SET_PDEATHSIG fires when the THREAD that forked ends, not the process: a child started by a
// worker thread of a test would die with that worker.
class Spawner {
 public:
  static Spawner& instance() {
    static Spawner spawner;
    return spawner;
  }

  pid_t run(std::function<pid_t()> function) {
    std::packaged_task<pid_t()> task(std::move(function));
    auto result = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
    return result.get();
  }

 private:
  Spawner() : thread_([this] { work(); }) {}
  ~Spawner() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<pid_t()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void set_nonblocking(int fd) {
  check(::fcntl(fd, F_SETFL, check(::fcntl(fd, F_GETFL), "fcntl") | O_NONBLOCK), "fcntl");
}

std::string name_of(std::string_view assignment) {
  return std::string(assignment.substr(0, assignment.find('=')));
}

std::vector<std::string> make_environment(const ProcessOptions& options) {
  std::vector<std::string> dropped = options.cleared_environment;
  for (const auto& assignment : options.environment) dropped.push_back(name_of(assignment));

  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::find(dropped.begin(), dropped.end(), name_of(*entry)) == dropped.end()) {
      result.emplace_back(*entry);
    }
  }
  result.insert(result.end(), options.environment.begin(), options.environment.end());
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (auto& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

struct ChildPlan {
  char** argv;
  char** environment;
  const rlimit* files;  // or nullptr
  int in;
  int out;
  int err;
  int file_3;   // or -1
  int failure;  // gets errno when the program cannot be run
  pid_t parent;
};

// Between fork and exec: nothing here may allocate or lock.
[[noreturn]] void become_child(const ChildPlan& plan) {
  for (int number = 1; number < NSIG; ++number) {
    if (number != SIGKILL && number != SIGSTOP) ::signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);

  // Only what dup2 puts in place below goes on to the program: the test's own parent may have left
  // files open, and open_files() would count them. `failure` must be closed at exec as well.
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);

  const bool ready =
      ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 &&
      ::getppid() == plan.parent &&  // it may have ended before prctl
      ::dup2(plan.in, STDIN_FILENO) >= 0 && ::dup2(plan.out, STDOUT_FILENO) >= 0 &&
      ::dup2(plan.err, STDERR_FILENO) >= 0 &&
      (plan.file_3 < 0 || (::dup2(plan.file_3, 3) == 3 && ::fcntl(3, F_SETFD, 0) == 0)) &&
      (plan.files == nullptr || ::setrlimit(RLIMIT_NOFILE, plan.files) == 0);
  if (ready) ::execvpe(plan.argv[0], plan.argv, plan.environment);

  const int error = errno;
  [[maybe_unused]] const auto written = ::write(plan.failure, &error, sizeof error);
  ::_exit(127);
}

// By number: the declaration in glibc 2.36, Debian 12's, lacks extern "C" and does not link from
// C++.
int open_pid_fd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

// Appends what is there to read; false at the end of the stream.
bool drain(int fd, std::string& text) {
  std::array<char, 16384> block{};
  while (true) {
    const auto count = ::read(fd, block.data(), block.size());
    if (count > 0) {
      text.append(block.data(), static_cast<std::size_t>(count));
    } else if (count == 0) {
      return false;
    } else if (errno != EINTR) {
      return errno == EAGAIN;
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

// The number after `key` in `line`, with or without a quote before it.
std::optional<std::uint16_t> number_after(std::string_view line, std::string_view key) {
  const auto at = line.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  line.remove_prefix(at + key.size());
  while (line.starts_with(' ') || line.starts_with('"')) line.remove_prefix(1);
  std::uint16_t number = 0;
  const auto result = std::from_chars(line.data(), line.data() + line.size(), number);
  if (result.ec != std::errc()) return std::nullopt;
  return number;
}

std::vector<std::string> service_argv(const std::string& binary, std::vector<std::string> flags,
                                      const ProcessOptions& options) {
  const auto names_port = [](const std::string& flag) {
    return flag == "--port" || flag.starts_with("--port=");
  };
  const auto sets_port = [](const std::string& assignment) {
    return assignment.starts_with("PORT=");
  };
  std::vector<std::string> argv{binary};
  if (std::none_of(flags.begin(), flags.end(), names_port) &&
      std::none_of(options.environment.begin(), options.environment.end(), sets_port)) {
    argv.emplace_back("--port=0");
  }
  argv.insert(argv.end(), flags.begin(), flags.end());
  return argv;
}

}  // namespace

const std::vector<std::string>& service_variables() {
  static const std::vector<std::string> names{
      "HOST",        "PORT",          "LOG_LEVEL",  "LOG_FORMAT",        "MAX_CONNECTIONS",
      "DRAIN_DELAY", "IDLE_TIMEOUT",  "ADMIN_PORT", "ERROR_RATE",        "DRAIN_TIMEOUT",
      "DELAY",       "SERVICE_A_URL", "TIMEOUT",    "MAX_UPSTREAM_CALLS"};
  return names;
}

Process::Process(std::vector<std::string> argv, ProcessOptions options) {
  if (argv.empty()) throw std::invalid_argument("Process: no program");
  auto environment = make_environment(options);
  const auto argv_pointers = pointers(argv);
  const auto environment_pointers = pointers(environment);
  rlimit files{};
  if (options.max_open_files) files = {*options.max_open_files, *options.max_open_files};

  const UniqueFd in(check(::open("/dev/null", O_RDONLY | O_CLOEXEC), "open /dev/null"));
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  Pipe failure = make_pipe();
  stop_fd_ = UniqueFd(check(::eventfd(0, EFD_CLOEXEC), "eventfd"));

  const ChildPlan plan{const_cast<char**>(argv_pointers.data()),
                       const_cast<char**>(environment_pointers.data()),
                       options.max_open_files ? &files : nullptr,
                       in.get(),
                       out.write.get(),
                       err.write.get(),
                       options.file_3.value_or(-1),
                       failure.write.get(),
                       ::getpid()};
  pid_ = Spawner::instance().run([&plan] {
    const pid_t pid = ::fork();
    if (pid == 0) become_child(plan);
    return check(pid, "fork");
  });

  out.write.reset();
  err.write.reset();
  failure.write.reset();
  int error = 0;
  ssize_t count = 0;
  do {
    count = ::read(failure.read.get(), &error, sizeof error);
  } while (count < 0 && errno == EINTR);

  // From here on the child must be reaped whatever happens.
  try {
    if (count == sizeof error) throw std::system_error(error, std::generic_category(), argv[0]);
    pid_fd_ = UniqueFd(check(open_pid_fd(pid_), "pidfd_open"));
    out_fd_ = std::move(out.read);
    err_fd_ = std::move(err.read);
    set_nonblocking(out_fd_.get());
    set_nonblocking(err_fd_.get());
    reader_ = std::thread([this] { read_until_end(); });
  } catch (...) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    throw;
  }
}

Process::~Process() {
  {
    std::unique_lock lock(mutex_);
    if (!status_) {
      ::kill(pid_, SIGCONT);
      ::kill(pid_, SIGKILL);
      changed_.wait(lock, [this] { return status_.has_value(); });
    }
  }
  // A grandchild may still hold the pipes, so their end is not something to wait for.
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_fd_.get(), &one, sizeof one);
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

bool Process::wait_for_output(std::string_view text, milliseconds timeout) {
  return wait_for([text](const std::string& out) { return out.find(text) != std::string::npos; },
                  timeout);
}

bool Process::wait_for(const std::function<bool(const std::string& out)>& predicate,
                       milliseconds timeout) {
  return wait_for_text(out_, predicate, timeout);
}

bool Process::wait_for_error(std::string_view text, milliseconds timeout) {
  return wait_for_text(
      err_, [text](const std::string& err) { return err.find(text) != std::string::npos; },
      timeout);
}

bool Process::wait_for_text(const std::string& text,
                            const std::function<bool(const std::string&)>& predicate,
                            milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  std::unique_lock lock(mutex_);
  while (!predicate(text)) {
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

std::uint16_t free_port() {
  const UniqueFd fd(check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  check(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
  socklen_t size = sizeof address;
  check(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
  return ntohs(address.sin_port);
}

std::optional<std::uint16_t> listening_port(std::string_view out) {
  for (auto end = out.find('\n'); end != std::string_view::npos; end = out.find('\n')) {
    const auto line = out.substr(0, end);
    out.remove_prefix(end + 1);
    for (const std::string_view mark :
         {R"(msg="listening")", "msg=listening", R"("msg":"listening")", " listening version="}) {
      if (line.find(mark) == std::string_view::npos) continue;
      const auto port = number_after(line, " port=");
      return port ? port : number_after(line, R"("port":)");
    }
  }
  return std::nullopt;
}

Service::Service(const std::string& binary, std::vector<std::string> flags, ProcessOptions options)
    : process_(service_argv(binary, std::move(flags), options), options) {
  const auto started = [this](const std::string& out) {
    const auto port = listening_port(out);
    port_ = port.value_or(0);
    return port.has_value();
  };
  if (!process_.wait_for(started, std::chrono::seconds(20))) {
    throw std::runtime_error(binary + " did not start\nstdout: " + process_.out() +
                             "\nstderr: " + process_.err());
  }
}

std::string Service::url() const { return "http://127.0.0.1:" + std::to_string(port_); }

std::optional<int> Service::stop() {
  process_.signal(SIGTERM);
  return process_.wait(std::chrono::seconds(20));
}

}  // namespace tests
