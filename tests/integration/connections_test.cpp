// How a connection goes on and how it ends: keep-alive, pipelines, refusals, limits to the byte.

#include <signal.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "integration/harness.hpp"

namespace tests {
namespace {

using namespace std::chrono_literals;

// That `response` is a refusal, and the last on its connection.
void expect_refusal(Connection& connection, const Response& response, int status) {
  expect_json(response, status, "{\"error\":" + quoted(response.field("error")) + "}\n");
  EXPECT_NE(response.field("error"), "(none)");
  expect_last(connection, response);
}

TEST(Pipelines, AreAnsweredInOrderHoweverTheyAreCut) {
  for_both({}, [](Tested& tested) {
    std::string bytes;
    for (int i = 0; i < 50; ++i) bytes += request_text(tested.echo("m " + std::to_string(i)));
    for (const std::size_t piece : {bytes.size(), std::size_t{7}, std::size_t{1}}) {
      SCOPED_TRACE(piece);
      Connection connection(tested.port());
      for (std::size_t at = 0; at < bytes.size(); at += piece) {
        ASSERT_TRUE(connection.send(bytes.substr(at, piece)));
      }
      for (int i = 0; i < 50; ++i) {
        const auto response = ask(connection, "");
        expect_json(response, 200, tested.echoed("m " + std::to_string(i)));
        EXPECT_EQ(response.header("connection"), std::nullopt);
        EXPECT_EQ(response.header("keep-alive"), std::nullopt);
      }
      EXPECT_EQ(connection.unread(), "");
    }
  });
}

TEST(Pipelines, MayBeLongAndTheirAnswersReadLate) {
  const int count = kSanitized ? 1'000 : 5'000;
  for_both({}, [count](Tested& tested) {
    std::string bytes;
    for (int i = 0; i < count; ++i) bytes += request_text(tested.echo(std::to_string(i)));
    Connection connection(tested.port());
    std::thread sender([&] { EXPECT_TRUE(connection.send(bytes, kPatience)); });
    int right = 0;
    while (right < count && ask(connection, "").body == tested.echoed(std::to_string(right))) {
      ++right;
    }
    EXPECT_EQ(right, count);
    if (right < count) connection.shutdown_write();
    sender.join();
  });
}

TEST(Pipelines, OfDifferentRequestsKeepTheirOrderAndEndWithTheLast) {
  for_both({}, [](Tested& tested) {
    Connection closed(tested.port());
    closed.send(request_text("/nope") + request_text("/health", "HEAD") + "\r\n" +
                request_text(tested.echo("x")) + request_text(tested.echo("%")) +
                request_text("/health", "GET", "Connection: close\r\n") + kHealth);
    EXPECT_EQ(ask(closed, "").status, 404);
    EXPECT_EQ(ask(closed, "", true).header("content-length"), std::to_string(kOk.size()));
    EXPECT_EQ(ask(closed, "").body, tested.echoed("x"));
    EXPECT_EQ(ask(closed, "").body, tested.echoed("%"));
    const auto last = ask(closed, "");
    EXPECT_EQ(last.body, kOk);
    expect_last(closed, last);

    Connection refused(tested.port());
    refused.send(request_text(tested.echo("1")) + request_text(tested.echo("2")) +
                 "rubbish\r\n\r\n" + kHealth);
    EXPECT_EQ(ask(refused, "").body, tested.echoed("1"));
    EXPECT_EQ(ask(refused, "").body, tested.echoed("2"));
    expect_refusal(refused, ask(refused, ""), 400);
  });
}

// Nagle's algorithm would hold the second answer until the client's delayed acknowledgement, 40 ms.
TEST(Pipelines, OfCallsAreNotHeldUpByTcp) {
  const auto a = start_a();
  const auto b = start_b(a.url());
  Connection client(b.port());
  std::vector<Timing> timings;
  Control control;
  for (int i = 0; i < 21; ++i) {
    timings.push_back(control.time([&] {
      ask(client, request_text(kCall) + request_text(kCall));
      ask(client, "");
    }));
  }
  expect_in_time(timings, 30ms, "two pipelined calls");
}

TEST(Connections, AreClosedAfterTheIdleTimeoutUnlessARequestIsUnderWay) {
  const auto a = start_a({"--idle-timeout=500ms", "--delay=1500ms"});
  Connection busy(a.port());
  busy.send(request_text("/echo?msg=x"));
  Connection fresh(a.port());
  Connection used(a.port());
  const auto start = Clock::now();
  EXPECT_EQ(ask(used, kHealth).status, 200);
  EXPECT_TRUE(used.closed_by_peer());
  EXPECT_GE(Clock::now() - start, 500ms);
  EXPECT_TRUE(fresh.closed_by_peer());
  EXPECT_EQ(used.unread() + fresh.unread(), "");  // without a word
  EXPECT_EQ(ask(busy, "").body, echo_body("x"));
  EXPECT_TRUE(busy.closed_by_peer());
}

// RFC 9112, section 2.2. It begins no head that would have to be complete within 5 s.
TEST(Connections, MayHaveAnEmptyLineBehindARequest) {
  const auto a = start_a({"--idle-timeout=500ms"});
  Connection connection(a.port());
  EXPECT_EQ(ask(connection, kHealth + "\r\n").status, 200);
  EXPECT_TRUE(connection.closed_by_peer());
  EXPECT_EQ(connection.unread(), "");
}

// All deadlines have passed when it goes on.
TEST(Connections, KeepWhatComesWhileTheServiceIsStopped) {
  auto a = start_a({"--idle-timeout=3s"});
  auto idle = connect_and_send(a.port(), 100, kHealth);
  for (auto& each : idle) EXPECT_EQ(ask(each, "").status, 200);
  a.process().hang();
  for (auto& each : idle) each.send(kHealth);
  std::this_thread::sleep_for(3100ms);
  a.process().signal(SIGCONT);
  for (auto& each : idle) EXPECT_EQ(ask(each, "").status, 200);
}

TEST(Connections, SpeakHttp10) {
  for_both({}, [](Tested& tested) {
    for (const auto& [target, status] :
         {std::pair{tested.echo("x"), 200}, {std::string("/no-such-path"), 404}}) {
      SCOPED_TRACE(target);
      Connection once(tested.port());
      const auto response = ask(once, "GET " + target + " HTTP/1.0\r\n\r\n");
      EXPECT_EQ(response.status, status);
      EXPECT_EQ(response.header("transfer-encoding"), std::nullopt);
      expect_last(once, response);
      Connection kept(tested.port());
      for (int i = 0; i < 3; ++i) {
        const auto again =
            ask(kept, "GET " + target + " HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        EXPECT_EQ(again.status, status);
        // RFC 9112, section 9.3: without it, a client of 1.0 waits for the close.
        EXPECT_EQ(again.header("connection"), "keep-alive");
      }
    }
  });
}

TEST(Connections, AnswerClientsThatHaveClosedTheirSide) {
  for_both({}, [](Tested& tested) {
    for (const int count : {1, 30}) {
      Connection connection(tested.port());
      for (int i = 0; i < count; ++i) {
        connection.send(request_text(tested.echo(std::to_string(i))));
      }
      connection.shutdown_write();
      for (int i = 0; i < count; ++i) {
        EXPECT_EQ(ask(connection, "").body, tested.echoed(std::to_string(i)));
      }
      EXPECT_TRUE(connection.closed_by_peer());
    }
    Connection half(tested.port());
    ASSERT_TRUE(half.send("GET /health HTTP/1.1\r\nHo"));
    half.shutdown_write();
    EXPECT_TRUE(half.closed_by_peer());
    EXPECT_EQ(half.unread(), "");
  });
}

// A client that is told to connect again does so at once, and must not meet a listener that is
// about to close.
TEST(Connections, EndAtAStopOnlyWhenTheListenerIsClosed) {
  for (int round = 0; round < 5; ++round) {
    auto a = start_a();
    std::atomic<int> told = 0;
    std::once_flag signalled;  // a second signal would end it at once
    time_at_once(16, [&](std::size_t) {
      Connection connection(a.port());
      while (connection.send(kHealth)) {
        const auto response = connection.read_response();
        if (!response || response.header("connection") == "close") break;
        std::call_once(signalled, [&] { a.process().signal(SIGTERM); });
      }
      ++told;
      EXPECT_FALSE(Connection(a.port()).connected());
    });
    EXPECT_EQ(told, 16);
    EXPECT_EQ(a.process().wait(kPatience), 0);
  }
}

// A request is a stream of bytes (RFC 9112, section 2), and ends where its head says. Wherever it
// is cut, it is neither answered nor refused before it is complete.
TEST(Connections, WaitForARequestWhereverItIsCut) {
  for_both({}, [](Tested& tested) {
    std::vector<Connection> waiting;
    for (std::size_t size = 1; size < kHealth.size(); ++size) {
      ASSERT_TRUE(waiting.emplace_back(tested.port()).send(kHealth.substr(0, size)));
    }
    // All have been read once later requests are answered.
    for (int i = 0; i < 20; ++i) EXPECT_EQ(get(tested.port(), "/health").status, 200);
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      EXPECT_FALSE(waiting[i].closed_by_peer(0ms)) << i;
      EXPECT_EQ(waiting[i].unread(), "") << kHealth.substr(0, i + 1);
      EXPECT_EQ(ask(waiting[i], kHealth.substr(i + 1)).body, kOk);
    }
  });
}

std::string with_head_of(std::size_t size) {
  const auto around = request_text("/health", "GET", "X: \r\n").size();
  return request_text("/health", "GET", "X: " + std::string(size - around, 'a') + "\r\n");
}

std::string with_fields(int count) {
  std::string fields;
  for (int i = 1; i < count; ++i) fields += "X-" + std::to_string(i) + ": 1\r\n";  // and Host
  return request_text("/health", "GET", fields);
}

TEST(Refusals, AreMadeAtTheLimitAndNotBefore) {
  const std::size_t around = std::string("GET /health? HTTP/1.1").size();
  const auto line = [around](std::size_t size) {
    return request_text("/health?" + std::string(size - around, 'a'));
  };
  const std::vector<std::pair<std::string, int>> rows{{line(8'192), 200},
                                                      {line(8'193), 414},
                                                      {line(1'000'000), 414},
                                                      {with_head_of(12'000), 200},
                                                      {with_head_of(16'384), 200},
                                                      {with_head_of(16'385), 431},
                                                      {with_head_of(1'000'000), 431},
                                                      {with_fields(100), 200},
                                                      {with_fields(101), 431}};
  for_both({}, [&](Tested& tested) {
    for (const auto& [bytes, status] : rows) {
      SCOPED_TRACE(std::to_string(bytes.size()) + " bytes, " + std::to_string(status));
      Connection connection(tested.port());
      const auto response = ask(connection, bytes + (status == 200 ? "" : kHealth));
      EXPECT_EQ(response.status, status);
      if (status != 200) expect_refusal(connection, response, status);
    }
    // Thousands of parameters, in a line that is as long as it may be.
    std::string query = "msg=first";
    while (query.size() < 8'000) query += "&m=" + std::to_string(query.size()) + "&msg=second";
    query.resize(8'000);
    const std::string path = tested.is_a ? "/echo?" : "/call-echo?";
    expect_json(get(tested.port(), path + query), 200, tested.echoed("first"));
  });
}

TEST(Refusals, AreTheLastOnTheirConnectionEvenWhereTheClientStays) {
  for_both({}, [](Tested& tested) {
    std::vector<Connection> stubborn;
    for (const auto& [bytes, status] : std::vector<std::pair<std::string, int>>{
             {"rubbish\r\n\r\n", 400},
             {"GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 505},
             {"POST /health HTTP/1.1\r\nHost: a\r\n\r\n", 405},
             {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404},
             {"BREW /no-such-path HTTP/1.1\r\nHost: a\r\n\r\n", 404}}) {
      SCOPED_TRACE(bytes);
      auto& connection = stubborn.emplace_back(tested.port());
      expect_refusal(connection, ask(connection, bytes + kHealth), status);
    }
    EXPECT_TRUE(
        eventually([&] { return sample(tested.port(), "http_server_open_connections") == 1; }));
  });
}

// A body that nobody reads is answered by a reset once the socket is closed, and a reset may
// overtake the answer: the server has to read on for a while.
TEST(Refusals, AreNotLostToABodyThatNobodyReads) {
  for_both({}, [](Tested& tested) {
    for (const std::size_t size : {0U, 1'000U, 65'536U, 1'000'000U}) {
      for (int round = 0; round < 5; ++round) {
        SCOPED_TRACE(size);
        Connection connection(tested.port());
        const auto length = "Content-Length: " + std::to_string(size) + "\r\n";
        EXPECT_TRUE(connection.send(request_text(tested.echo("x"), "POST", length) +
                                    std::string(size, 'b')));
        expect_refusal(connection, ask(connection, ""), 405);
        EXPECT_EQ(connection.error(), "");  // no reset
      }
    }
    // One without an end is cut off after a second.
    Connection endless(tested.port());
    endless.send("POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    const auto begin = Clock::now();
    const std::string block(65'536, 'b');
    while (endless.send(block) && Clock::now() < begin + kPatience) {
    }
    EXPECT_LT(Clock::now() - begin, kSanitized ? 5s : 2s);
  });
}

TEST(Refusals, OfMoreThanMaxConnectionsAreReadableAndKeepNobodyElseOut) {
  for_both({"--max-connections=3"}, [](Tested& tested) {
    auto inside = connect_and_send(tested.port(), 3, kHealth);
    for (auto& each : inside) EXPECT_EQ(ask(each, "").status, 200);
    auto outside = connect_and_send(tested.port(), 20, kHealth);
    for (auto& each : outside) {
      const auto response = ask(each, "");
      expect_json(response, 503, "{\"error\":\"too many open connections\"}\n");
      EXPECT_EQ(response.header("connection"), "close");
    }
    EXPECT_EQ(ask(inside[0], kHealth).status, 200) << "who is inside is not disturbed";
    // The answer is one to the request, if there is any: Go's client takes an earlier one for
    // nonsense.
    Connection slow(tested.port());
    std::this_thread::sleep_for(50ms);
    const auto response =
        ask(slow, request_text("/health", "HEAD", "X-Request-ID: my-1\r\n"), true);
    EXPECT_EQ(response.status, 503);
    EXPECT_EQ(response.body, "");
    EXPECT_EQ(response.header("x-request-id"), "my-1");
    EXPECT_EQ(value(line_with(tested.service.process(), "request_id", "my-1"), "endpoint"),
              "/health");
    Connection silent(tested.port());
    EXPECT_EQ(ask(silent, "").status, 503);
    // Those that were told so and stay all the same don't take the place that becomes free.
    inside.pop_back();
    const auto begin = Clock::now();
    EXPECT_TRUE(eventually([&] { return get(tested.port(), "/health").status == 200; }));
    EXPECT_LT(Clock::now() - begin, kSanitized ? 3s : 500ms);
    for (auto& each : outside) EXPECT_TRUE(each.closed_by_peer());
  });
}

// --- answers that come late

struct LateAnswers : testing::Test {
  Service a{kServiceA, {"--delay=1s"}};
  Service b = start_b(a.url(), {"--timeout=20s"});
  const std::vector<std::pair<std::uint16_t, std::string>> late{{a.port(), "/echo"},
                                                                {b.port(), "/call-echo"}};

  // Of requests, without the one that asks.
  static double under_way(const Service& service) {
    return sample(service.port(), "http_server_active_requests").value_or(0) - 1;
  }
};

TEST_F(LateAnswers, ComeToClientsThatCloseTheirSideOrSendMore) {
  std::vector<Connection> waiting;
  for (const auto& [port, path] : late) {
    for (const char* rest : {" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                             " HTTP/1.0\r\n\r\n", " HTTP/1.1\r\nHost: a\r\n\r\n"}) {
      for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(waiting.emplace_back(port).send("GET " + path + rest));
      }
    }
  }
  EXPECT_TRUE(eventually([&] { return under_way(a) == 12 && under_way(b) == 6; }));
  for (std::size_t i = 0; i < waiting.size(); i += 2) {
    waiting[i].shutdown_write();
    EXPECT_TRUE(waiting[i + 1].send("GET /health HTTP/1.0\r\n\r\n"));
  }
  for (auto& each : waiting) {
    EXPECT_EQ(ask(each, "").status, 200);
    EXPECT_TRUE(each.closed_by_peer());
  }
}

TEST_F(LateAnswers, MayComeToClientsThatAreLost) {
  for (const auto& [port, path] : late) {
    for (int i = 0; i < 30; ++i) {
      Connection connection(port);
      connection.send(i % 2 == 0 ? kHealth + request_text(path)
                                 : "GET " + path + " HTTP/1.0\r\n\r\n");
      if (i % 3 == 0) connection.reset();
    }
  }
  EXPECT_TRUE(eventually([&] { return under_way(a) > 20 && under_way(b) > 20; }));
  EXPECT_TRUE(eventually([&] { return under_way(a) == 0 && under_way(b) == 0; }));
  for (auto* each : {&a, &b}) {
    EXPECT_EQ(get(each->port(), "/health").status, 200);
    EXPECT_EQ(each->process().err(), "");
  }
}

TEST_F(LateAnswers, LeaveTheNextRequestItsTime) {
  auto slow = start_a({"--delay=6s"});  // longer than a head may take
  Connection client(slow.port());
  EXPECT_EQ(ask(client, request_text("/echo?msg=x") + "GET /health HTTP/1.1\r\nHo").status, 200);
  EXPECT_EQ(ask(client, "st: a\r\n\r\n").status, 200);
}

}  // namespace
}  // namespace tests
