#include "support/services.hpp"

#include <cstdlib>
#include <fstream>

namespace tests {

std::string service_binary(const std::string& name) {
  const char* folder = std::getenv("SERVICES");
  if (folder == nullptr || *folder == '\0') folder = BUILD_FOLDER;
  return std::string(folder) + "/" + name + "/" + name;
}

bool is_sanitized(const std::string& binary) {
  std::ifstream file(binary, std::ios::binary);
  // The names of what it links with are near its start: elf(5), .dynstr.
  std::string bytes(std::size_t{1} << 20, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes.find("__asan_init") != std::string::npos ||
         bytes.find("__tsan_init") != std::string::npos;
}

}  // namespace tests
