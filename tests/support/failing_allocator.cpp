// To be preloaded: between SIGUSR1 and SIGUSR2 one of FAIL_ONE_IN calls of operator new throws, at
// random after FAIL_SEED. At the end of the process stderr tells how many did.

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace {

std::uint64_t number_of(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

std::uint64_t one_in = 1;
std::atomic<bool> armed = false;
std::atomic<std::uint64_t> state = 0;
std::atomic<unsigned> failed = 0;

// SplitMix64.
std::uint64_t random_number() {
  auto x = state.fetch_add(0x9E3779B97F4A7C15);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

struct Control {
  Control() {
    one_in = number_of("FAIL_ONE_IN");
    state = number_of("FAIL_SEED");
    std::signal(SIGUSR1, [](int) { armed = true; });
    std::signal(SIGUSR2, [](int) { armed = false; });
  }
  ~Control() { std::fprintf(stderr, "allocations that failed: %u\n", failed.load()); }
} control;

}  // namespace

void* operator new(std::size_t size) {
  if (armed && random_number() % one_in == 0) {
    ++failed;
    throw std::bad_alloc();
  }
  void* memory = std::malloc(size);
  if (memory == nullptr && size > 0) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
