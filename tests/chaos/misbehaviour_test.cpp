#include "chaos/expectations.hpp"
#include "support/eventually.hpp"
#include "support/faulty_upstream.hpp"

namespace tests::chaos {
namespace {

using std::chrono::milliseconds;

TEST(Misbehaviour, DrawnAtRandom) {
  const std::size_t wanted = kSanitized ? 800 : 3'000;
  FaultyUpstream upstream(random_mode(), {.seed = chaos_seed()});
  Service b(kServiceB, {"--service-a-url=" + upstream.url(), "--timeout=200ms"}, service_options());
  auto before = footprint(b.process().pid());
  const std::set<std::string, std::less<>> reasons{"timeout", "connection_closed", "bad_status",
                                                   "bad_response"};
  CallerOptions options{
      .port = b.port(), .seed = chaos_seed(), .reasons = reasons, .limit = milliseconds(250)};
  Tally tally;
  {
    Callers callers(options);
    // One is drawn for each connection. Most misbehave in the content alone, and their connection
    // is kept alive: so that all have their turn, those that are open draw again now and then.
    const auto misbehave_for = [&](std::size_t answers) {
      const auto end = callers.unavailable() + answers;
      return eventually(
          [&] {
            upstream.set_mode(random_mode());
            return callers.unavailable() >= end;
          },
          kPatience);
    };
    EXPECT_TRUE(misbehave_for(wanted / 5)) << callers.so_far().summary();
    before.rss_kib = footprint(b.process().pid()).rss_kib;
    EXPECT_TRUE(misbehave_for(wanted)) << callers.so_far().summary();
    tally = callers.stop();
  }
  const auto connections = upstream.connections();

  upstream.set_mode(right_mode());
  options.reasons = {};
  options.seed = chaos_seed() + 1;
  options.limit = milliseconds(250);
  Tally afterwards;
  {
    Callers callers(options);
    EXPECT_TRUE(callers.wait_for_ok(1'000));
    afterwards = callers.stop();
  }
  report(tally.summary() + " connections=" + std::to_string(connections) +
         " | then right: " + afterwards.summary() + " | service-b before " + to_text(before) +
         ", after " + to_text(footprint(b.process().pid())));
  expect_no_violation(tally);
  expect_no_violation(afterwards);
  EXPECT_GT(tally.ok, 0U);
  for (const auto& reason : reasons) EXPECT_GT(tally.unavailable_for(reason), 0U) << reason;

  // Nothing of it stays, but what is kept alive for the next call.
  before.files += static_cast<long>(upstream.open_connections());
  EXPECT_EQ(difference(b.process().pid(), before), "");
  EXPECT_EQ(b.stop(), 0);
}

}  // namespace
}  // namespace tests::chaos
