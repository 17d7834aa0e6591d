#pragma once

#include <chrono>
#include <string>

namespace tests {

// The executables under test: those of this build or, where the environment variable SERVICES names
// the folder of another build, those. So the tests that start processes are built once, and judge
// any build of the services. `name`: "service-a", "service-b".
std::string service_binary(const std::string& name);
// Whether the file holds what a sanitizer puts into all programs that it watches.
bool is_sanitized(const std::string& binary);

inline const std::string kServiceA = service_binary("service-a");
inline const std::string kServiceB = service_binary("service-b");

// A service that is watched by a sanitizer is slow and large.
inline const bool kSanitized = is_sanitized(kServiceA) || is_sanitized(kServiceB);
// What it may have on top of each promise in time.
inline constexpr std::chrono::milliseconds kSanitizerSlack{3'000};

}  // namespace tests
