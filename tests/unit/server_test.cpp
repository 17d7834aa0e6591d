#include "common/http/server.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/eventually.hpp"
#include "support/http_client.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

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

TEST(Server, WhatAHandlerThrowsGoesToTheLogAndNotToTheClient) {
  Server server({});
  server.Get("/exception", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("half an answer", "text/plain");
    throw std::runtime_error("the secret");
  });
  server.Get("/number", [](const httplib::Request&, httplib::Response&) { throw 42; });
  std::vector<Exchange> answered;
  std::mutex mutex;
  server.on_answer([&](const Exchange& exchange) {
    const std::lock_guard lock(mutex);
    answered.push_back(exchange);
  });
  const auto port = server.bind().port;
  server.start();
  for (const std::string path : {"/exception", "/number"}) {
    const auto response = tests::get(port, path).response;
    ASSERT_TRUE(response) << path;
    EXPECT_EQ(response->status, 500) << path;
    EXPECT_EQ(response->body, "{\"error\":\"internal error\"}\n") << path;
    EXPECT_THAT(response->head, Not(HasSubstr("secret"))) << path;
  }
  EXPECT_TRUE(server.stop(5s));
  ASSERT_EQ(answered.size(), 2u);
  EXPECT_EQ(answered[0].outcome, Exchange::Outcome::kFailed);
  EXPECT_EQ(answered[0].notes.at(0).key, "error");
  EXPECT_EQ(answered[0].notes.at(0).value, "the secret");
}

TEST(Server, AConnectionThatIsNewAtTheStopMayStillAsk) {
  const auto answered = [] {
    Server server({.threads = 1});
    server.Get("/", [](const httplib::Request&, httplib::Response&) {});
    const auto port = server.bind().port;
    server.start();
    const std::string request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    tests::Connection used(port);
    used.send(request);
    EXPECT_TRUE(used.read_response());
    tests::Connection fresh(port);
    EXPECT_TRUE(tests::eventually([&] { return server.open_connections() == 2; }));
    auto stopped = std::async(std::launch::async, [&] { return server.stop(5s); });
    EXPECT_TRUE(used.closed_by_peer());
    fresh.send(request);
    const auto response = fresh.read_response();
    EXPECT_TRUE(stopped.get());
    return response && response->header("connection") == "close";
  };
  // It has a fifth of a second for that, which a busy machine may take away.
  EXPECT_TRUE(answered() || answered() || answered());
}

}  // namespace
}  // namespace common::http
