#include "common/http/server.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/http/fiber.hpp"
#include "support/control.hpp"
#include "support/eventually.hpp"
#include "support/http_client.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

TEST(Server, IsResponsiveUnlessOneOfItsLoopsHangs) {
  Server server({});
  std::promise<void> let_go;
  const auto wait = let_go.get_future().share();
  server.Get("/hang", [wait](const httplib::Request&, httplib::Response&) { wait.wait(); });
  const auto port = server.bind().main.front().port;
  server.start();
  const auto responsive = [&] { return server.all_loops_responsive(); };
  EXPECT_TRUE(responsive());
  EXPECT_TRUE(tests::eventually(responsive));

  tests::Connection client(port);
  client.send("GET /hang HTTP/1.1\r\nHost: test\r\n\r\n");
  ASSERT_TRUE(tests::eventually([&] { return server.active_requests() == 1; }));
  server.all_loops_responsive();  // may still be about the time before
  server.all_loops_responsive();
  EXPECT_FALSE(tests::eventually(responsive, 500ms));

  let_go.set_value();
  EXPECT_TRUE(client.read_response());
  EXPECT_TRUE(tests::eventually(responsive));
  EXPECT_TRUE(server.stop(5s));
}

TEST(Server, WhatAHandlerThrowsGoesToTheLogAndNotToTheClient) {
  Server server({});
  server.Get("/exception", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("half an answer", "text/plain");
    throw std::runtime_error("the secret");
  });
  server.Get("/number", [](const httplib::Request&, httplib::Response&) { throw 42; });
  server.Get("/no-memory", [](const httplib::Request&, httplib::Response&) {
    sleep_for(1ms);
    throw std::bad_alloc();
  });
  // These would be silently empty otherwise.
  server.Get("/provider", [](const httplib::Request&, httplib::Response& response) {
    response.set_content_provider(
        5, "text/plain", [](std::size_t, std::size_t, httplib::DataSink&) { return true; });
  });
  std::vector<Exchange> answered;
  std::mutex mutex;
  server.on_answer([&](const Exchange& exchange) {
    const std::lock_guard lock(mutex);
    answered.push_back(exchange);
  });
  const auto port = server.bind().main.front().port;
  server.start();
  for (const std::string path : {"/exception", "/number", "/no-memory", "/provider"}) {
    const auto response = tests::get(port, path);
    EXPECT_EQ(response.status, 500) << path;
    EXPECT_EQ(response.body, "{\"error\":\"internal error\"}\n") << path;
    EXPECT_THAT(response.head, Not(HasSubstr("secret"))) << path;
  }
  EXPECT_TRUE(server.stop(5s));
  ASSERT_EQ(answered.size(), 4u);
  EXPECT_EQ(answered[0].outcome, Exchange::Outcome::kFailed);
  EXPECT_EQ(answered[0].notes.at(0).key, "error");
  EXPECT_EQ(answered[0].notes.at(0).value, "the secret");
}

TEST(Server, AHandlerSeesTheWholeRequest) {
  Server server({});
  httplib::Request seen;
  server.Get("/a b", [&](const httplib::Request& request, httplib::Response&) {
    seen = request;
    sleep_for(1ms);
  });
  const auto port = server.bind().main.front().port;
  server.start();
  tests::Connection client(port);
  client.send(
      "GET http://other/a%20b?x=1&x=2&x=1&y=%41+%u0041?%zz HTTP/1.0\r\nHost: test\r\nX-Custom: "
      "%41\r\n"
      "x-custom: 2\r\nCookie: a=b\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 200);
  EXPECT_TRUE(server.stop(5s));
  EXPECT_EQ(seen.method, "GET");
  EXPECT_EQ(seen.version, "HTTP/1.0");
  EXPECT_EQ(seen.path, "/a b");
  EXPECT_EQ(seen.target, "/a%20b?x=1&x=2&x=1&y=%41+%u0041?%zz");
  EXPECT_EQ(seen.remote_addr, "127.0.0.1");
  EXPECT_GT(seen.remote_port, 0);
  EXPECT_EQ(seen.params.count("x"), 3u);
  EXPECT_EQ(seen.get_param_value("x", 1), "2");
  EXPECT_EQ(seen.get_param_value("y"), "A %u0041?%zz");
  EXPECT_EQ(seen.headers.size(), 4u);
  EXPECT_EQ(seen.get_header_value("x-CUSTOM"), "%41");
  EXPECT_EQ(std::next(seen.headers.find("X-Custom"))->second, "2");
  EXPECT_EQ(seen.get_header_value("Cookie"), "a=b");
}

// It has a fifth of a second for that. A round in which the machine took a part of it shows
// nothing.
TEST(Server, AConnectionThatIsNewAtTheStopMayStillAsk) {
  const std::string request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
  tests::Control control;
  const auto ask_at_the_stop = [&] {
    Server server({});
    server.Get("/", [](const httplib::Request&, httplib::Response&) {});
    const auto port = server.bind().main.front().port;
    server.start();
    tests::Connection used(port);
    used.send(request);
    EXPECT_TRUE(used.read_response());
    tests::Connection fresh(port);
    EXPECT_TRUE(tests::eventually([&] { return server.open_connections() == 2; }));
    const auto lost = control.lost();
    const auto begin = Clock::now();
    auto stopped = std::async(std::launch::async, [&] { return server.stop(5s); });
    EXPECT_TRUE(used.closed_by_peer());
    fresh.send(request);
    const auto response = fresh.read_response();
    const bool in_time = Clock::now() - begin < 150ms && control.lost_by_now() - lost < 50ms;
    EXPECT_TRUE(stopped.get());
    if (response) {
      EXPECT_EQ(response.header("connection"), "close");
    } else {
      EXPECT_FALSE(in_time) << response.error;
    }
    return response.status != 0;
  };
  EXPECT_TRUE(tests::eventually(ask_at_the_stop));
}

}  // namespace
}  // namespace common::http
