#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "support/posix.hpp"

namespace tests {

// A UDP name server on 127.0.0.1 that answers what `make_answer`, called on a thread of its own,
// makes of a query; nothing where that is empty.
class NameServer {
 public:
  using MakeAnswer = std::function<std::string(const std::string& query)>;

  // `port` 0: any free one. Throws std::system_error.
  explicit NameServer(MakeAnswer make_answer, std::uint16_t port = 0);
  ~NameServer();

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int queries() const { return queries_; }

 private:
  void serve();

  const MakeAnswer make_answer_;
  UniqueFd fd_;
  UniqueFd stop_;
  std::uint16_t port_ = 0;
  std::atomic<int> queries_ = 0;
  std::thread thread_;
};

// The query's header and question, turned into an answer with this code and so many records, which
// are to follow (RFC 1035, section 4.1).
std::string answer_to(const std::string& query, char code, int records);

// That the name has this IPv4 address, such as "127.0.0.2", and no other.
std::string address_answer(const std::string& query, const char* address);

}  // namespace tests
