#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/posix.hpp"

namespace tests {

// A UDP name server on 127.0.0.1 that answers what `make_answer`, called on a thread for each
// query, makes of it; nothing where that is empty.
class NameServer {
 public:
  using MakeAnswer = std::function<std::string(const std::string& query)>;

  // `port` 0: any free one. Throws std::system_error.
  explicit NameServer(MakeAnswer make_answer, std::uint16_t port = 0);
  ~NameServer();

  std::string address() const { return "127.0.0.1:" + std::to_string(socket_.port); }
  int queries() const { return queries_; }

 private:
  void serve();

  const MakeAnswer make_answer_;
  BoundSocket socket_;
  UniqueFd stop_;
  std::atomic<int> queries_ = 0;
  std::thread thread_;
};

// What a query asks for (RFC 1035, section 4.1.2): "a.b.test", in lower case, and A or AAAA.
struct Question {
  std::string name;
  bool is_v6 = false;
};
Question question_of(const std::string& query);

// Codes of answers (RFC 1035, section 4.1.1).
inline constexpr char kServFail = 2;
inline constexpr char kNxDomain = 3;
inline constexpr char kNotImp = 4;
inline constexpr char kRefused = 5;

// The query's header and question, turned into an answer with this code and so many records, which
// are to follow (RFC 1035, section 4.1).
std::string answer_to(const std::string& query, char code, int records = 0);

// That the name has those of these IPv4 and IPv6 addresses that are of the kind asked for.
std::string address_answer(const std::string& query, const std::vector<std::string>& addresses);

// The files of names that the threads of in_private_network() see, and no others, in /etc.
class PrivateEtc {
 public:
  // Replaces a file: set("resolv.conf", "nameserver 127.0.0.1\n").
  void set(const std::string& name, const std::string& text) const;

 private:
  friend std::optional<std::string> in_private_network(
      const std::function<void(const PrivateEtc&)>& work);
  PrivateEtc() = default;
};

// Runs `work` on a thread that has a network of its own, the loopback alone, and an /etc of its own
// that says to ask a name server on 127.0.0.1, port 53. Threads started there are there as well.
// Returns why it cannot be had here: it needs root.
std::optional<std::string> in_private_network(const std::function<void(const PrivateEtc&)>& work);

}  // namespace tests
