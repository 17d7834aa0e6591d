#include "common/http/server.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>

#include "support/eventually.hpp"
#include "support/http_client.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

TEST(Server, TurnsUnlessOneOfItsLoopsHangs) {
  Server server({.threads = 2});
  std::promise<void> let_go;
  const auto wait = let_go.get_future().share();
  server.Get("/hang", [wait](const httplib::Request&, httplib::Response&) { wait.wait(); });
  const auto port = server.bind().port;
  server.start();
  const auto turns = [&] { return server.turned(); };
  EXPECT_TRUE(turns());
  EXPECT_TRUE(tests::eventually(turns));

  tests::Connection client(port);
  client.send("GET /hang HTTP/1.1\r\nHost: test\r\n\r\n");
  ASSERT_TRUE(tests::eventually([&] { return server.active_requests() == 1; }));
  server.turned();  // may still be about the time before
  server.turned();
  EXPECT_FALSE(tests::eventually(turns, 500ms));

  let_go.set_value();
  EXPECT_TRUE(client.read_response());
  EXPECT_TRUE(tests::eventually(turns));
  EXPECT_TRUE(server.stop(5s));
}

}  // namespace
}  // namespace common::http
