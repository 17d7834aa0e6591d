#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/http/request_head.hpp"
#include "common/http/server.hpp"

namespace common::http {

/// One client of a Server, from accept to close: frames requests, has them answered one at a time,
/// in order, and keeps the deadlines. Whatever the client does costs no more than the memory of one
/// head, one read and four answers.
class ServerConnection final : public Watcher {
 public:
  /// `over_limit`: the client is only told that there are too many. `peer`: its address.
  ServerConnection(Loop& loop, Server& server, Server::Port& port, bool over_limit, BaseUrl peer);
  ~ServerConnection() override;

  /// Owns the accepted socket `fd`. Once.
  void start(int fd);

  void on_events(std::uint32_t events) override;
  void on_deadline() override;
  void on_drain() override;

 private:
  friend class Server;
  class Answering;

  enum class State {
    kOpen,       // takes requests
    kLast,       // the last answer is made, and may not be sent yet
    kLingering,  // our side is shut down; reads until the client closes
    kBroken      // nothing can be sent or received; waits for its handler
  };
  enum class Input {
    kNone,       // nothing to receive before the next event
    kReady,      // perhaps something to receive
    kHangingUp,  // the client's end is to be received, or an error
    kEnded       // it has been received
  };

  void advance(const Refusal* refusal = nullptr);
  void answer_and_receive(const Refusal* refusal);
  bool flush();
  bool receive();
  void wait();
  void end();
  bool answer_next();
  void begin(const RequestHead* head, const Refusal* refusal);
  void complete(bool answered);

  Server& server_;
  Server::Port& port_;
  const bool over_limit_;
  const BaseUrl peer_;
  std::string in_;                        // received, not yet answered
  std::string out_;                       // answered, not yet sent
  std::size_t sent_ = 0;                  // of out_
  std::unique_ptr<Answering> answering_;  // the request under way
  // When the client's part began: sending a head, over the limit all of it; or taking an answer.
  Clock::time_point since_{};
  State state_ = State::kOpen;
  Input input_ = Input::kNone;
  bool advancing_ = false;  // advance() is on the call stack
  bool answered_ = false;   // at least one request
};

}  // namespace common::http
