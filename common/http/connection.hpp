#pragma once

#include <httplib.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/http/loop.hpp"
#include "common/http/server.hpp"

namespace common::http {

struct RequestHead;
struct Refusal;

/// One client of a Server, from accept to close: frames requests, one at a time, has them answered
/// in their order, and keeps the deadlines. Whatever the client does, all that it can cost is
/// memory, and no more of that than one head, one read and four answers.
class Connection final : public Watcher {
 public:
  /// `surplus`: above the limit, and only told so.
  Connection(Loop& loop, Server& server, bool surplus);
  ~Connection() override;

  /// Takes the accepted socket over. Once.
  void start(int fd);

  /// Sends the response of the exchange under way.
  void complete();

  void on_events(std::uint32_t events) override;
  void on_deadline() override;
  void on_drain() override;

 private:
  void advance(const Refusal* refusal = nullptr);
  void answer_and_receive();
  bool flush();
  bool receive();
  void end();
  void wait();
  bool answer_next();
  void begin(const RequestHead& head);
  void refuse(const Refusal& refusal);
  void write(Exchange& exchange, const httplib::Response& response);

  Server& server_;
  const bool surplus_;
  std::string in_;                             // received, not yet answered
  std::string out_;                            // answered, not yet sent
  std::size_t sent_ = 0;                       // of out_
  std::unique_ptr<PendingExchange> exchange_;  // the one whose answer is awaited
  Clock::time_point since_{};  // when that which the client has to do began: a head, or reading
  bool advancing_ = false;
  bool readable_ = false;  // there may be something to receive
  bool hung_up_ = false;   // the client's end is to be received, or an error
  bool eof_ = false;       // it has been
  bool http_1_0_ = false;  // the request that is being answered
  bool last_ = false;      // no other one is answered behind it
  bool answered_ = false;  // at least one request
  bool closing_ = false;   // after what is in out_
  bool shut_ = false;      // our side is closed
  bool broken_ = false;    // nothing can be sent or received any more
};

}  // namespace common::http
