#include "chaos/callers.hpp"

namespace tests::chaos {
namespace {

// Among a hundred callers and so few files, one waits in the listen queue for its turn.
constexpr milliseconds kTurnLimit{5'000};

class FileLimit : public Chaos {
 protected:
  void start_with_few_files(Restartable& service) {
    service.options.max_open_files = static_cast<std::uint64_t>(draw(random_, 40, 64));
    service.start();
  }
};

TEST_F(FileLimit, ManyConnectionsAreServedOrToldAndNothingIsLeftOfThem) {
  for (const bool is_a : {true, false}) {
    if (!is_a) a_.start();
    auto& service = is_a ? a_ : b_;
    start_with_few_files(service);
    const auto before = footprint(service.pid());
    Callers callers({.port = service.port(),
                     .path = is_a ? "/echo" : "/call-echo",
                     .count = 100,
                     .reasons = is_a ? Reasons{"full"} : Reasons{"full", "overloaded"},
                     .limit = kTurnLimit,
                     .pause = milliseconds(10)});
    callers.wait_for_ok(kSanitized ? 300 : 2'000);
    const auto tally = callers.stop();
    report(tally.summary());
    expect_no_violation(tally);
    if (is_a) {
      expect_footprint(a_.pid(), before);
      a_.stop();
      a_.options.max_open_files.reset();
    } else {
      expect_right_answer();
      expect_nothing_left(before);
    }
  }
}

// Those that are turned away must not take the files that the admitted ones need, though none of
// them closes; and their end must make room.
TEST_F(FileLimit, AnAdmittedCallerIsServedWhileOthersCrowdTheDoor) {
  a_.start();
  start_with_few_files(b_);
  const auto before = footprint(b_.pid());
  {
    Connection admitted(b_.port());
    ASSERT_TRUE(admitted.send(request_text("/health")));
    ASSERT_TRUE(admitted.read_response());
    // They say nothing, until one of them was told that there are too many.
    std::list<Connection> idle;
    for (int i = 0; i < 100; ++i) idle.emplace_back(b_.port());
    EXPECT_TRUE(eventually([&] {
      return std::ranges::any_of(idle, [](Connection& connection) {
        std::ignore = connection.closed_by_peer(milliseconds(0));  // takes what is there
        return connection.unread().find("503") != std::string::npos;
      });
    }));
    ASSERT_TRUE(admitted.send(request_text("/call-echo?msg=one")));
    const auto response = admitted.read_response();
    EXPECT_EQ(response.status, 200) << response.body << response.error;
  }
  EXPECT_TRUE(eventually([&] { return get(b_.port(), "/health").status == 200; }));
  expect_right_answer();
  expect_nothing_left(before);
}

}  // namespace
}  // namespace tests::chaos
