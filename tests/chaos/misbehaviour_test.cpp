#include "chaos/callers.hpp"
#include "support/faulty_upstream.hpp"

namespace tests::chaos {
namespace {

class Misbehaviour : public Chaos {};

TEST_F(Misbehaviour, DrawnAtRandom) {
  const std::size_t wanted = kSanitized ? 800 : 3'000;
  FaultyUpstream upstream(random_mode(), {.seed = chaos_seed()});
  b_.flags = {"--service-a-url=" + upstream.url(), "--timeout=200ms"};
  b_.start();
  auto before = footprint(b_.pid());
  CallerOptions options{
      .port = b_.port(),
      .reasons = {"timeout", "connection_closed", "bad_status", "bad_response"},
      // A debug build takes 0.1 s to read some answers, and other calls wait for it.
      .limit = milliseconds(1'000)};
  {
    Callers callers(options);
    // One is drawn for each connection. Most misbehave in the content alone, and their connection
    // is kept alive: so that all have their turn, those that are open draw again now and then.
    const auto misbehave_for = [&](std::size_t answers) {
      const auto end = callers.unavailable() + answers;
      EXPECT_TRUE(eventually(
          [&] {
            upstream.set_mode(random_mode());
            return callers.unavailable() >= end;
          },
          kPatience))
          << callers.so_far().summary();
    };
    misbehave_for(wanted / 5);
    before.rss_kib = footprint(b_.pid()).rss_kib;
    misbehave_for(wanted);
    const auto tally = callers.stop();
    report(tally.summary() + " connections=" + std::to_string(upstream.connections()));
    expect_no_violation(tally);
    EXPECT_GT(tally.count("200"), 0U);
    for (const auto& reason : options.reasons)
      EXPECT_GT(tally.count("503 " + reason), 0U) << reason;
  }

  upstream.set_mode(right_mode());
  options.reasons = {};
  ++options.seed;
  {
    Callers callers(options);
    callers.wait_for_ok(1'000);
    expect_no_violation(callers.stop());
  }
  // Nothing of it stays, but what is kept alive for the next call.
  before.files += static_cast<long>(upstream.open_connections());
  expect_nothing_left(before);
}

}  // namespace
}  // namespace tests::chaos
