#pragma once

#include <cstdio>
#include <cstdlib>

/// What has to hold for every input. Ends the process where it does not, so that the fuzzer keeps
/// the input.
#define REQUIRE(condition)                                                                \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)
