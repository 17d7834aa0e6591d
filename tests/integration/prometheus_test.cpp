#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "integration/harness.hpp"

// deploy/observability against reality: a real Prometheus, promtool, and the services' /metrics.

namespace tests {
namespace {

using nlohmann::json;

const std::filesystem::path kProject = PROJECT_FOLDER;
const auto kFolder = kProject / "deploy/observability";

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  if (!(std::ofstream(path) << text)) throw std::runtime_error("cannot write " + path.string());
}

// Throws where `from` is not: what is replaced here has to be in the files that users get.
std::string replaced(std::string text, std::string_view from, std::string_view to) {
  auto at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error("there is no " + std::string(from));
  for (; at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    auto name = (std::filesystem::temp_directory_path() / "prometheus-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

bool installed(const std::string& program) {
  Process which({"/bin/sh", "-c", "command -v \"$0\"", program});
  return which.wait(kPatience) == 0;
}

#define SKIP_WITHOUT(program)                                                    \
  if (!installed(program)) {                                                     \
    GTEST_SKIP() << program                                                      \
        " is not installed: apt-get install --no-install-recommends prometheus"; \
  }

// A program that has nothing to complain about.
void expect_success(const std::vector<std::string>& argv) {
  Process process(argv);
  EXPECT_EQ(process.wait(kPatience), 0) << process.out() << process.err();
}

// ---- the queries that the project's files hold --------------------------------------------------

// The blocks between ```promql and ``` in a Markdown file, by the line above them.
std::map<std::string, std::string> queries_of_readme(const std::filesystem::path& path) {
  std::map<std::string, std::string> queries;
  std::istringstream file(read_file(path));
  std::string above;
  for (std::string line; std::getline(file, line);) {
    if (line != "```promql") {
      if (!line.empty()) above = line;
      continue;
    }
    std::string query;
    while (std::getline(file, line) && line != "```") query += line + "\n";
    queries[above] = query;
  }
  return queries;
}

// That of which the line above begins like this.
std::string readme_query(std::string_view beginning) {
  for (const auto& [above, query] : queries_of_readme(kFolder / "README.md")) {
    if (above.starts_with(beginning)) return query;
  }
  throw std::runtime_error("the README has no query " + std::string(beginning));
}

// From `expr:` to the next key, `for:`.
std::vector<std::string> queries_of_alerts() {
  static const std::regex rule(R"(\n *expr: \|?([^]*?)\n *for:)");
  const auto text = read_file(kFolder / "alerts.yml");
  std::vector<std::string> queries;
  for (std::sregex_iterator each(text.begin(), text.end(), rule), end; each != end; ++each) {
    queries.push_back(each->str(1));
  }
  return queries;
}

json dashboard() { return json::parse(read_file(kFolder / "dashboard.json")); }

// What Grafana would ask with its own variables filled in.
std::string filled_in(std::string query) {
  for (const auto* variable : {"$__rate_interval", "$__interval"}) {
    if (query.find(variable) != std::string::npos) query = replaced(query, variable, "1m");
  }
  return query;
}

// The queries of the panels by the panel's title, and those of the annotations.
std::multimap<std::string, std::string> queries_of_dashboard() {
  std::multimap<std::string, std::string> queries;
  const auto board = dashboard();
  for (const auto& panel : board.at("panels")) {
    for (const auto& target : panel.at("targets")) {
      queries.emplace(panel.at("title"), filled_in(target.at("expr")));
    }
  }
  for (const auto& annotation : board.at("annotations").at("list")) {
    if (annotation.contains("expr")) queries.emplace("", filled_in(annotation.at("expr")));
  }
  return queries;
}

// The metrics that a query reads: the identifiers outside of strings, {labels}, [ranges] and lists
// of labels that are no functions and no keywords.
std::set<std::string> metrics_in(const std::string& query) {
  static const std::regex string(R"("(?:[^"\\]|\\.)*")");
  static const std::regex no_metrics(
      R"(\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring|group_left|group_right)\s*(\([^)]*\))?)");
  static const std::regex identifier(R"(\b([a-zA-Z_:][a-zA-Z0-9_:]*)\b(\s*\()?)");
  static const std::set<std::string> keywords{"and", "or", "unless", "offset", "bool"};
  const auto bare = std::regex_replace(std::regex_replace(query, string, ""), no_metrics, " ");
  std::set<std::string> found;
  for (std::sregex_iterator each(bare.begin(), bare.end(), identifier), end; each != end; ++each) {
    if (!(*each)[2].matched && !keywords.contains(each->str(1))) found.insert(each->str(1));
  }
  return found;
}

// ---- what is observed ---------------------------------------------------------------------------

// Service A, slow enough to be told from a failure, and Service B, which has already seen A answer
// and refuse: both have been counted once.
struct TwoServices {
  std::unique_ptr<Service> a = start_on_lasting_port(kServiceA, {"--delay=60ms"});
  Service b = start_b(a->url(), {"--timeout=15s"});

  TwoServices() {
    call(200);
    kill_a();
    call(503);
    const auto port = std::to_string(port_of_a_);
    a = std::make_unique<Service>(kServiceA,
                                  std::vector<std::string>{"--delay=60ms", "--port=" + port});
  }

  void call(int status) const {
    const auto result = get(b.port(), "/call-echo?msg=hello", {}, kPatience);
    EXPECT_EQ(result.status(), status) << result.error;
  }
  void calls(int count, int status) const {
    for (int i = 0; i < count; ++i) call(status);
  }
  void kill_a() { a->process().kill(); }
  std::uint16_t port_of_a() const { return port_of_a_; }

 private:
  std::uint16_t port_of_a_ = a->port();
};

// The project's configuration and alerts in a real Prometheus, which scrapes those two often.
class Prometheus {
 public:
  explicit Prometheus(const TwoServices& services) : process_(command(services)) {
    const auto listens = [this](const std::string& text) {
      static const std::regex address(R"(msg="Listening on" address=127\.0\.0\.1:(\d+))");
      std::smatch match;
      if (!std::regex_search(text, match, address)) return false;
      port_ = static_cast<std::uint16_t>(std::stoi(match[1]));
      return true;
    };
    const auto answers = [this] { return get(port_, "/-/ready").status() == 200; };
    if (!eventually([&] { return listens(process_.err()); }, kPatience) ||
        !eventually(answers, kPatience)) {
      throw std::runtime_error("prometheus does not start: " + process_.err());
    }
    // Enough points that a rate of what happens next is near the truth.
    EXPECT_TRUE(eventually([this] { return scrapes() >= 3; }, kPatience)) << process_.err();
  }

  // The values by their labels; those of one series, or of none, under "".
  using Values = std::map<std::string, double>;
  Values ask(const std::string& query, const std::string& label = "") const {
    const auto result = get(port_, "/api/v1/query?query=" + percent_encode(query), {}, kPatience);
    const auto answer = result.response ? result.response->json() : json();
    if (!answer.is_object() || answer.value("status", "") != "success") {
      ADD_FAILURE() << query << "\n" << (result.response ? result.response->body : result.error);
      return {};
    }
    Values values;
    for (const auto& series : answer.at("data").at("result")) {
      values[label.empty() ? "" : series.at("metric").value(label, "")] =
          std::stod(series.at("value").at(1).get<std::string>());
    }
    return values;
  }

  // Waits until the query's answer is this.
  bool becomes(const std::string& query, const Values& wanted,
               const std::string& label = "") const {
    return eventually([&] { return ask(query, label) == wanted; }, kPatience);
  }

  // How often B has been scraped since it had counted a success and a refusal.
  double scrapes() const {
    const auto counted =
        ask("count_over_time(http_client_request_duration_seconds_count{error_type=\"connection_"
            "refused\"}"
            "[1h])");
    return counted.empty() ? 0 : counted.begin()->second;
  }

 private:
  std::vector<std::string> command(const TwoServices& services) {
    const auto address = [](std::uint16_t port) { return "127.0.0.1:" + std::to_string(port); };
    auto configuration = read_file(kFolder / "prometheus.yml");
    configuration = replaced(configuration, "127.0.0.1:8080", address(services.port_of_a()));
    configuration = replaced(configuration, "127.0.0.1:8081", address(services.b.port()));
    configuration = replaced(configuration, "_interval: 5s", "_interval: 100ms");
    write_file(folder_ / "prometheus.yml", configuration);
    std::filesystem::copy(kFolder / "alerts.yml", folder_ / "alerts.yml");
    return {"prometheus", "--config.file=" + (folder_ / "prometheus.yml").string(),
            "--storage.tsdb.path=" + (folder_ / "data").string(),
            "--web.listen-address=127.0.0.1:0"};
  }

  TemporaryFolder folder_;
  Process process_;
  std::uint16_t port_ = 0;
};

// ---- the files ----------------------------------------------------------------------------------

TEST(Observability, PromtoolAcceptsTheConfigurationAndTheAlerts) {
  SKIP_WITHOUT("promtool");
  expect_success({"promtool", "check", "config", (kFolder / "prometheus.yml").string()});
  expect_success({"promtool", "check", "rules", (kFolder / "alerts.yml").string()});
}

TEST(Observability, EachAlertFiresWhenItShouldAndNotOtherwise) {
  SKIP_WITHOUT("promtool");
  expect_success({"promtool", "test", "rules", (kFolder / "alerts_test.yml").string()});
}

TEST(Observability, PromtoolHasNothingToSayAboutTheMetrics) {
  SKIP_WITHOUT("promtool");
  const TwoServices services;
  const TemporaryFolder folder;
  const auto file = folder / "metrics";
  for (const auto port : {services.port_of_a(), services.b.port()}) {
    get(port, "/nowhere");
    get(port, "/health", {}, kPatience, "POST");
    write_file(file, metrics_of(port));
    Process promtool({"/bin/sh", "-c", "promtool check metrics <\"$0\"", file.string()});
    EXPECT_EQ(promtool.wait(kPatience), 0);
    EXPECT_EQ(promtool.out() + promtool.err(), "");
  }
}

TEST(Observability, QueriesReadOnlyMetricsThatTheServicesHave) {
  const TwoServices services;
  services.call(200);
  std::set<std::string> known{"up"};  // Prometheus makes it
  for (const auto port : {services.port_of_a(), services.b.port()}) {
    metrics_of(port);  // so that the next one has counted a request in A, too
    std::istringstream lines(metrics_of(port));
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with('#')) known.insert(line.substr(0, line.find_first_of("{ ")));
    }
  }
  std::multimap<std::string, std::string> queries = queries_of_dashboard();
  for (const auto& [above, query] : queries_of_readme(kFolder / "README.md")) {
    queries.emplace(above, query);
  }
  for (const auto& query : queries_of_alerts()) queries.emplace("alerts.yml", query);
  EXPECT_EQ(queries.count("alerts.yml"), 5U);

  for (const auto& [where, query] : queries) {
    const auto names = metrics_in(query);
    EXPECT_FALSE(names.empty()) << where << ": " << query;
    for (const auto& name : names) EXPECT_TRUE(known.contains(name)) << where << ": " << name;
  }
}

TEST(Observability, TheFrontPageShowsTheQueriesThatAreTested) {
  const auto tested = queries_of_readme(kFolder / "README.md");
  const auto shown = queries_of_readme(kProject / "README.md");
  EXPECT_FALSE(shown.empty());
  for (const auto& [above, query] : shown) {
    const auto same = [&wanted = query](const auto& each) { return each.second == wanted; };
    EXPECT_TRUE(std::any_of(tested.begin(), tested.end(), same)) << above << "\n" << query;
  }
}

TEST(Observability, TheDashboardAsksTheChosenDataSourceAndItsPanelsDoNotOverlap) {
  const auto board = dashboard();
  std::set<std::string> variables;
  for (const auto& variable : board.at("templating").at("list")) {
    variables.insert(variable.at("name"));
  }
  EXPECT_EQ(variables, std::set<std::string>{"datasource"});

  std::set<int> ids;
  std::set<std::pair<int, int>> taken;
  for (const auto& panel : board.at("panels")) {
    SCOPED_TRACE(panel.at("title"));
    EXPECT_TRUE(ids.insert(panel.at("id").get<int>()).second);
    EXPECT_NE(panel.at("description"), "");
    for (const auto& target : panel.at("targets")) {
      EXPECT_EQ(target.at("datasource").at("uid"), "${datasource}");
    }
    const auto& place = panel.at("gridPos");
    for (int x = 0; x < place.at("w"); ++x) {
      for (int y = 0; y < place.at("h"); ++y) {
        const auto column = x + place.at("x").get<int>();
        EXPECT_LT(column, 24);
        EXPECT_TRUE(taken.emplace(column, y + place.at("y").get<int>()).second);
      }
    }
  }
}

// ---- a real Prometheus --------------------------------------------------------------------------

TEST(Observability, APrometheusAnswersTheQueriesWithWhatHappened) {
  SKIP_WITHOUT("prometheus");
  constexpr int kEchoed = 30;
  constexpr int kRefused = 10;
  TwoServices services;
  const Prometheus prometheus(services);
  EXPECT_TRUE(
      prometheus.becomes(readme_query("Is each"), {{"service-a", 1}, {"service-b", 1}}, "job"));

  services.calls(kEchoed, 200);
  services.kill_a();
  services.calls(kRefused, 503);

  // Exact: the counters. One more of each from before Prometheus came.
  EXPECT_TRUE(
      prometheus.becomes("http_client_request_duration_seconds_count{job=\"service-b\"} > 0",
                         {{"", kEchoed + 1}, {"connection_refused", kRefused + 1}}, "error_type"));
  EXPECT_TRUE(
      prometheus.becomes(readme_query("Is each"), {{"service-a", 0}, {"service-b", 1}}, "job"));

  // A rate is extrapolated to the ends of its window, by less the more points there are.
  ASSERT_TRUE(eventually([&] { return prometheus.scrapes() >= 20; }, kPatience));
  auto rate = prometheus.ask(readme_query("How many requests"), "http_response_status_code");
  EXPECT_NEAR(rate["200"] * 60, kEchoed, kEchoed * 0.25);
  EXPECT_NEAR(rate["503"] * 60, kRefused, kRefused * 0.25);
  EXPECT_EQ(rate.size(), 2U);

  auto ratio = prometheus.ask(readme_query("Which share"), "error_type");
  EXPECT_NEAR(ratio["connection_refused"], double{kRefused} / (kEchoed + kRefused), 0.05);
  EXPECT_EQ(ratio.size(), 8U);  // the other reasons are there, at 0

  // Three of four calls took A's delay, or longer where the machine is busy.
  const auto slow = prometheus.ask(readme_query("How slow"))[""];
  EXPECT_GT(slow, 0.05);
  EXPECT_LE(slow, kSanitized ? 5 : 1);
}

TEST(Observability, APrometheusSeesTheCallsThatWaitForAHungServiceA) {
  SKIP_WITHOUT("prometheus");
  constexpr int kWaiting = 3;
  TwoServices services;
  const Prometheus prometheus(services);
  const auto waiting = readme_query("How many calls wait");
  EXPECT_TRUE(prometheus.becomes(waiting, {{"", 0}}));

  services.a->process().signal(SIGSTOP);
  std::vector<std::future<void>> calls;
  for (int i = 0; i < kWaiting; ++i) {
    calls.push_back(std::async(std::launch::async, [&services] { services.call(200); }));
  }
  EXPECT_TRUE(prometheus.becomes(waiting, {{"", kWaiting}}));
  services.a->process().signal(SIGCONT);
  calls.clear();  // awaits them
  EXPECT_TRUE(prometheus.becomes(waiting, {{"", 0}}));
}

TEST(Observability, APrometheusHasDataForEveryPanelAndLoadsEveryAlert) {
  SKIP_WITHOUT("prometheus");
  TwoServices services;
  const Prometheus prometheus(services);
  services.calls(3, 200);
  get(services.port_of_a(), "/echo?msg=hello");
  services.kill_a();
  services.calls(2, 503);
  ASSERT_TRUE(prometheus.becomes("sum(http_client_request_duration_seconds_count)", {{"", 7}}));

  for (const auto& [title, query] : queries_of_dashboard()) {
    SCOPED_TRACE(title);
    const auto values = prometheus.ask(query);
    EXPECT_TRUE(title.empty() || !values.empty()) << query;
  }
  for (const auto& query : queries_of_alerts()) prometheus.ask(query);  // fails where it is wrong
  EXPECT_TRUE(prometheus.becomes("ALERTS{alertname=\"ServiceAFailing\"}",
                                 {{"connection_refused", 1}}, "error_type"));
}

}  // namespace
}  // namespace tests
