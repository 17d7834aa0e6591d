#include "common/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

namespace common {
namespace {

using testing::HasSubstr;
using testing::Not;

// The rest is shown by the services' own /metrics: integration/metrics_test.cpp.
TEST(Metrics, LeaveOutWhatCannotBeRead) {
  Metrics metrics;
  std::optional<double> value = 7;
  metrics.add_gauge("some_gauge", "Something.", [&] { return value; });
  EXPECT_THAT(metrics.text(), HasSubstr("# TYPE some_gauge gauge\nsome_gauge 7\n"));
  value.reset();
  EXPECT_THAT(metrics.text(), Not(HasSubstr("some_gauge")));
}

}  // namespace
}  // namespace common
