#include "support/services.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace tests {

std::string service_binary(const std::string& name) {
  const char* folder = std::getenv("SERVICES");
  if (folder == nullptr || *folder == '\0') folder = BUILD_FOLDER;
  return std::string(folder) + "/" + name + "/" + name;
}

bool is_sanitized(const std::string& binary) {
  std::ifstream file(binary, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  return bytes.find("__asan_init") != std::string::npos ||
         bytes.find("__tsan_init") != std::string::npos;
}

}  // namespace tests
