#include "common/http/client.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "support/faulty_upstream.hpp"
#include "support/posix.hpp"
#include "unit/no_threads.hpp"
#include "unit/run_on_fiber.hpp"

namespace common::http {
namespace {

using namespace std::chrono_literals;

TEST(Client, RenewsAConnectionThatIsOldHoweverBusy) {
  const tests::FaultyUpstream upstream(tests::right_mode());
  ClientOptions options;
  options.budget = 10s;  // not what is tested here
  options.max_age = 100ms;
  Loop loop;
  Client client(parse_base_url(upstream.url()), options, 1);
  int calls = 0;
  tests::run_on_fiber(loop, [&] {
    for (const auto end = Clock::now() + 10s; upstream.connections() < 3 && Clock::now() < end;) {
      EXPECT_TRUE(std::holds_alternative<std::string>(client.get("/echo?msg=a", {})));
      ++calls;  // without a pause: it is never idle when the loop looks
    }
  });
  EXPECT_EQ(upstream.connections(), 3u);
  EXPECT_GT(calls, 3);  // it was one for several calls
}

// A connection that has been idle may hold what nobody asked for, such as a late answer.
TEST(Client, WhatArrivesBetweenTwoCallsIsNotTheAnswerToTheSecond) {
  const auto [listener, port] = tests::bind_socket(SOCK_STREAM);
  tests::check(::listen(listener.get(), 8), "listen");

  const auto send_answer = [](int fd, const std::string& body) {
    const auto text =
        "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
  };
  std::atomic<bool> answered{false};
  std::atomic<bool> stray_sent{false};
  std::thread upstream([&, fd = listener.get()] {
    std::array<char, 4096> request{};
    const tests::UniqueFd first(::accept(fd, nullptr, nullptr));
    ::recv(first.get(), request.data(), request.size(), 0);
    send_answer(first.get(), "first");
    answered.wait(false);
    send_answer(first.get(), "stray");
    stray_sent = true;
    const tests::UniqueFd second(::accept(fd, nullptr, nullptr));
    if (!second) return;  // shut down
    ::recv(second.get(), request.data(), request.size(), 0);
    send_answer(second.get(), "second");
  });

  ClientOptions options;
  options.budget = 10s;  // not what is tested here
  Loop loop;
  Client client({"127.0.0.1", port}, options, 1);
  std::vector<std::string> bodies;
  const auto call = [&] {
    const auto answer = client.get("/", {});
    const auto* body = std::get_if<std::string>(&answer);
    bodies.push_back(body ? *body : "(failure)");
  };
  tests::run_on_fiber(loop, [&] {
    call();
    answered = true;
    answered.notify_one();
    while (!stray_sent) std::this_thread::yield();  // the loop does not see it come
    call();
  });
  ::shutdown(listener.get(), SHUT_RDWR);
  upstream.join();
  EXPECT_EQ(bodies, (std::vector<std::string>{"first", "second"}));
}

TEST(Client, IsOverloadedWhereThereIsNoThreadForTheLookUp) {
  Loop loop;
  Client client({"localhost", 1}, {}, 1);
  tests::run_on_fiber(loop, [&] {
    const tests::NoThreads none;
    const auto answer = client.get("/", {});
    const auto* const failure = std::get_if<CallFailure>(&answer);
    ASSERT_NE(failure, nullptr);
    EXPECT_EQ(failure->error, CallError::kOverloaded);
    EXPECT_EQ(failure->detail, "no thread for the look-up");
  });
}

}  // namespace
}  // namespace common::http
