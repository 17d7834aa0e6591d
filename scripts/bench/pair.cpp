// Both services with cpp-httplib as it comes: its thread pool, one blocking client for each thread.
//   pair-httplib a PORT THREADS
//   pair-httplib b PORT THREADS URL-OF-A
#include <httplib.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

void answer(httplib::Response& response, int status, const json& body) {
  response.status = status;
  response.set_content(body.dump() + "\n", "application/json");
}

void log_line(const char* service, const httplib::Request& request,
              const httplib::Response& response, Clock::time_point start) {
  const std::chrono::duration<double, std::milli> latency = Clock::now() - start;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  std::array<char, 32> time{};
  std::strftime(time.data(), time.size(), "%Y-%m-%dT%H:%M:%S", &parts);
  std::printf(
      "time=%s.%06ldZ level=info service=%s method=%s endpoint=%s status=%d latency_ms=%.3f\n",
      time.data(), now.tv_nsec / 1000, service, request.method.c_str(), request.path.c_str(),
      response.status, latency.count());
}

void echo(const httplib::Request& request, httplib::Response& response) {
  answer(response, 200, {{"echo", request.get_param_value("msg")}});
}

void call_echo(const std::string& url, const httplib::Request& request,
               httplib::Response& response) {
  thread_local auto client = [&] {
    httplib::Client made(url);
    made.set_keep_alive(true);
    made.set_tcp_nodelay(true);
    made.set_connection_timeout(1);
    made.set_read_timeout(1);
    return made;
  }();
  const httplib::Params msg{{"msg", request.get_param_value("msg")}};
  const auto result = client.Get("/echo", msg, httplib::Headers{});
  const auto said = result && result->status == 200 ? json::parse(result->body, nullptr, false)
                                                    : json(json::value_t::discarded);
  if (said.is_discarded()) {
    answer(response, 503, {{"service_a", "unavailable"}, {"service_b", "ok"}});
  } else {
    answer(response, 200, {{"service_a", said}, {"service_b", "ok"}});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const std::string service = argv[1];
  const int port = std::stoi(argv[2]);
  const auto threads = std::stoul(argv[3]);
  const std::string url = argc > 4 ? argv[4] : "";

  // The log is written in blocks, at the latest after 200 ms.
  static std::array<char, 64 * 1024> buffer;
  std::setvbuf(stdout, buffer.data(), _IOFBF, buffer.size());
  std::thread([] {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      std::fflush(stdout);
    }
  }).detach();

  httplib::Server server;
  server.new_task_queue = [&] { return new httplib::ThreadPool(threads); };
  server.set_keep_alive_max_count(std::numeric_limits<std::size_t>::max());
  server.set_tcp_nodelay(true);
  server.Get(service == "a" ? "/echo" : "/call-echo",
             [&](const httplib::Request& request, httplib::Response& response) {
               const auto start = Clock::now();
               service == "a" ? echo(request, response) : call_echo(url, request, response);
               log_line(service.c_str(), request, response, start);
             });
  return server.listen("127.0.0.1", port) ? 0 : 1;
}
