#include <algorithm>

#include "chaos/expectations.hpp"
#include "support/eventually.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

// Among a hundred callers and so few files, one waits in the listen queue for its turn.
constexpr milliseconds kTurnLimit{5'000};

class FileLimit : public ::testing::Test {
 protected:
  ProcessOptions few_files() {
    auto options = service_options();
    files_ = static_cast<std::uint64_t>(draw(random_, 40, 64));
    options.max_open_files = files_;
    return options;
  }

  std::mt19937 random_{chaos_seed()};
  std::uint64_t files_ = 0;
};

TEST_F(FileLimit, ServiceBWithFewFilesUnderManyConnections) {
  Service a(kServiceA, {}, service_options());
  Service b(kServiceB, {"--service-a-url=" + a.url()}, few_files());
  const auto before = footprint(b.process().pid());
  expect_right_answer(b.port(), "before");
  Callers callers({.port = b.port(),
                   .count = 100,
                   .seed = chaos_seed(),
                   .reasons = {"overloaded"},
                   .limit = kTurnLimit,
                   .pause = milliseconds(10),
                   .may_be_full = true});
  EXPECT_TRUE(callers.wait_for_ok(kSanitized ? 300 : 2'000)) << callers.so_far().summary();
  const auto tally = callers.stop();
  report(tally.summary() + " files=" + std::to_string(files_));
  expect_no_violation(tally);
  EXPECT_TRUE(eventually([&] { return get(b.port(), "/health").status() == 200; }));
  expect_right_answer(b.port(), "after");
  a.process().kill();
  EXPECT_EQ(difference(b.process().pid(), before), "");
  EXPECT_EQ(b.stop(), 0);
  EXPECT_EQ(b.process().err(), "");
}

TEST_F(FileLimit, ServiceAWithFewFilesUnderManyConnections) {
  Service a(kServiceA, {}, few_files());
  const auto before = footprint(a.process().pid());
  Callers callers({.port = a.port(),
                   .target = Target::kServiceA,
                   .count = 100,
                   .seed = chaos_seed(),
                   .limit = kTurnLimit,
                   .pause = milliseconds(10),
                   .may_be_full = true});
  EXPECT_TRUE(callers.wait_for_ok(kSanitized ? 300 : 2'000)) << callers.so_far().summary();
  const auto tally = callers.stop();
  report(tally.summary() + " files=" + std::to_string(files_));
  expect_no_violation(tally);
  EXPECT_EQ(difference(a.process().pid(), before), "");
  EXPECT_EQ(get(a.port(), "/health").status(), 200);
  EXPECT_EQ(a.stop(), 0);
}

// Callers that say nothing take up what files there are; the next one must hear so, and the end of
// the idle ones must make room.
TEST_F(FileLimit, IdleConnectionsMakeRoomWhenTheyEnd) {
  Service a(kServiceA, {}, service_options());
  Service b(kServiceB, {"--service-a-url=" + a.url()}, few_files());
  const auto before = footprint(b.process().pid());
  std::size_t told = 0;
  {
    std::vector<std::unique_ptr<Connection>> idle;
    for (int i = 0; i < 100; ++i) idle.push_back(std::make_unique<Connection>(b.port()));
    EXPECT_TRUE(eventually([&] {
      told = 0;
      for (auto& connection : idle) {
        std::ignore = connection->closed_by_peer(milliseconds(0));  // takes what is there
        if (connection->unread().find("503") != std::string::npos) ++told;
      }
      return told > 0;
    })) << "nobody was told that there are too many";
  }
  EXPECT_TRUE(eventually([&] { return get(b.port(), "/health").status() == 200; }));
  expect_right_answer(b.port(), "after");
  a.process().kill();
  EXPECT_EQ(difference(b.process().pid(), before), "");
  EXPECT_EQ(b.stop(), 0);
  report("idle connections=100 told=" + std::to_string(told) + " files=" + std::to_string(files_));
}

// Those that are turned away must not take the files that the admitted ones need.
TEST_F(FileLimit, AnAdmittedCallerIsServedWhileOthersCrowdTheDoor) {
  Service a(kServiceA, {}, service_options());
  Service b(kServiceB, {"--service-a-url=" + a.url()}, few_files());
  Connection admitted(b.port());
  ASSERT_TRUE(admitted.send("GET /health HTTP/1.1\r\nHost: chaos\r\n\r\n"));
  ASSERT_TRUE(admitted.read_response());
  const auto alone = open_files(b.process().pid());

  std::vector<std::unique_ptr<Connection>> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(std::make_unique<Connection>(b.port()));
  // None of them closes, not even when it was told to go.
  EXPECT_TRUE(eventually([&] {
    return std::any_of(idle.begin(), idle.end(), [](auto& connection) {
      std::ignore = connection->closed_by_peer(milliseconds(0));  // takes what is there
      return !connection->unread().empty();
    });
  }));
  ASSERT_TRUE(admitted.send("GET /call-echo?msg=one HTTP/1.1\r\nHost: chaos\r\n\r\n"));
  const auto response = admitted.read_response();
  ASSERT_TRUE(response) << admitted.error();
  EXPECT_EQ(response->status, 200) << response->body;
  report("status=" + std::to_string(response->status) + " files=" + std::to_string(files_) +
         ", open before " + std::to_string(alone) + ", in the crowd " +
         std::to_string(open_files(b.process().pid())));
  idle.clear();
  EXPECT_EQ(b.stop(), 0);
}

}  // namespace
}  // namespace tests::chaos
