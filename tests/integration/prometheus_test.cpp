#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "integration/harness.hpp"

// deploy/observability against reality: a real Prometheus, promtool, an Alertmanager, and the
// services' /metrics.

namespace tests {
namespace {

using nlohmann::json;

const std::string kFolder = "deploy/observability/";
const std::string kFullFolder = std::string(PROJECT_FOLDER) + "/" + kFolder;

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

struct TemporaryFolder {
  TemporaryFolder() {
    auto name = (std::filesystem::temp_directory_path() / "prometheus-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + name);
    path = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path / name; }
  std::filesystem::path path;
};

#define SKIP_WITHOUT(program)                                  \
  if (run("/bin/sh", {"-c", "command -v " program}).code != 0) \
  GTEST_SKIP() << program " is not installed: scripts/setup.sh dev"

// A program that has nothing to complain about. Testing the rules takes promtool seconds of CPU
// time.
void expect_success(const std::vector<std::string>& argv) {
  Process process(argv);
  EXPECT_EQ(process.wait(3 * kPatience), 0) << process.out() << process.err();
}

// Those of the README by their comment, without the comment's "# ".
std::map<std::string, std::string> queries_of_readme() {
  static const std::regex each(R"(# (.+)\n([^#`]+))");
  const auto text = read_file(kFolder + "README.md");
  const auto begin = text.find("```promql\n");
  const auto block = text.substr(begin, text.find("\n```\n", begin) + 1 - begin);
  std::map<std::string, std::string> queries;
  for (std::sregex_iterator query(block.begin(), block.end(), each), end; query != end; ++query) {
    queries[query->str(1)] = query->str(2);
  }
  return queries;
}

// That of which the comment begins like this.
std::string readme_query(std::string_view beginning) {
  for (const auto& [comment, query] : queries_of_readme()) {
    if (comment.starts_with(beginning)) return query;
  }
  throw std::runtime_error("the README has no query " + std::string(beginning));
}

// The queries of the panels and of the annotations, by where they are in the file.
std::map<std::string, std::string> queries_of_dashboard() {
  std::map<std::string, std::string> queries;
  const auto board = json::parse(read_file(kFolder + "dashboard.json")).flatten();
  for (const auto& [path, query] : board.items()) {
    if (path.ends_with("/expr")) queries[path] = query;
  }
  return queries;
}

// As Grafana asks it: of everything, with scrapes a minute apart.
std::string filled_in(const std::string& query) {
  static const std::regex variable(R"(\$(namespace|job|instance))");
  static const std::regex rate_interval(R"(\$__rate_interval)");
  return std::regex_replace(std::regex_replace(query, variable, ".*"), rate_interval, "4m");
}

// Service A, slow enough to be told from a failure, and Service B, which has already seen A answer
// and refuse: both have been counted once.
struct TwoServices {
  const std::vector<std::string> flags_of_a{"--delay=60ms",
                                            "--port=" + std::to_string(lasting_port())};
  std::unique_ptr<Service> a = std::make_unique<Service>(kServiceA, flags_of_a);
  Service b = start_b(a->url(), {"--timeout=15s"});

  TwoServices() {
    call(200);
    kill_a();
    call(503);
    start_a();
  }

  void call(int status) const {
    const auto result = get(b.port(), "/call-echo?msg=hello", {}, kPatience);
    EXPECT_EQ(result.status, status) << result.error;
  }
  void calls(int count, int status) const {
    for (int i = 0; i < count; ++i) call(status);
  }
  void kill_a() { a->process().kill(); }
  void start_a() { a = std::make_unique<Service>(kServiceA, flags_of_a); }
};

std::string address_of(const Service& service) {
  return "127.0.0.1:" + std::to_string(service.port());
}

// prometheus.yml where these two run, with ten scrapes a second.
std::string fast_configuration(const TwoServices& services) {
  auto text = read_file(kFolder + "prometheus.yml");
  text = replaced(text, "127.0.0.1:8080", address_of(*services.a));
  text = replaced(text, "127.0.0.1:8081", address_of(services.b));
  return replaced(text, "_interval: 15s", "_interval: 100ms");
}

// The project's Debian has no discovery in a cluster: the pods are listed, with the labels that it
// would find. One of them is somebody else's.
std::string kubernetes_configuration(const TwoServices& services) {
  const auto pod = [](const std::string& address, const std::string& part_of,
                      const std::string& name) {
    return "{targets: ['" + address + "'], labels: {__meta_kubernetes_namespace: shop, " +
           "__meta_kubernetes_pod_name: " + name + "-0, __meta_kubernetes_pod_phase: Running, " +
           "__meta_kubernetes_pod_container_port_name: admin, " +
           "__meta_kubernetes_pod_label_app_kubernetes_io_name: " + name + ", " +
           "__meta_kubernetes_pod_label_app_kubernetes_io_part_of: " + part_of + "}}";
  };
  return "global: {scrape_interval: 100ms, evaluation_interval: 100ms}\n" +
         replaced(read_file(kFolder + "prometheus-kubernetes.yml"),
                  "kubernetes_sd_configs: [{ role: pod }]",
                  "static_configs: [" + pod(address_of(*services.a), "two-services", "service-a") +
                      ", " + pod(address_of(services.b), "two-services", "service-b") + ", " +
                      pod("127.0.0.1:1", "other", "other") + "]");
}

// The port of a program of the Prometheus project that was told to take a free one.
std::uint16_t port_it_listens_on(Process& process) {
  static const std::regex address(R"(msg="Listening on" address=127\.0\.0\.1:(\d+))");
  std::smatch match;
  std::string log;
  const auto listens = [&] { return std::regex_search(log = process.err(), match, address); };
  if (!eventually(listens, kPatience)) throw std::runtime_error("it does not start: " + log);
  return static_cast<std::uint16_t>(std::stoi(match[1]));
}

class Prometheus {
 public:
  explicit Prometheus(const std::string& configuration)
      : process_(command(configuration)), port_(port_it_listens_on(process_)) {
    EXPECT_TRUE(eventually([this] { return get(port_, "/-/ready").status == 200; }, kPatience));
    // Enough points that a rate of what happens next is near the truth.
    EXPECT_TRUE(eventually([this] { return scrapes() >= 3; }, kPatience)) << process_.err();
  }

  // `data` in the answer of the API; null where it says no.
  json api(const std::string& target) const {
    const auto response = get(port_, "/api/v1/" + target, {}, kPatience);
    if (response.field("status") == "success") return response.json().at("data");
    ADD_FAILURE() << target << "\n" << response.body << response.error;
    return {};
  }

  // The values by their labels; those of one series, or of none, under "".
  using Values = std::map<std::string, double>;
  Values ask(const std::string& query, const std::string& label = "") const {
    const auto data = api("query?query=" + percent_encode(query));
    Values values;
    if (data.is_null()) return values;
    for (const auto& series : data.at("result")) {
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
    const auto counted = ask(
        R"(count_over_time(http_client_request_duration_seconds_count{error_type="connection_refused"}[1h]))");
    return counted.empty() ? 0 : counted.begin()->second;
  }

 private:
  std::vector<std::string> command(const std::string& configuration) {
    write_file(folder_ / "prometheus.yml", configuration);
    write_file(folder_ / "alerts.yml", read_file(kFolder + "alerts.yml"));
    return {"prometheus", "--config.file=" + (folder_ / "prometheus.yml").string(),
            "--storage.tsdb.path=" + (folder_ / "data").string(),
            "--web.listen-address=127.0.0.1:0"};
  }

  TemporaryFolder folder_;
  Process process_;
  std::uint16_t port_ = 0;
};

TEST(Observability, PromtoolAcceptsTheFilesAndEachAlertFiresWhenItShould) {
  SKIP_WITHOUT("promtool");
  expect_success({"promtool", "check", "config", kFullFolder + "prometheus.yml"});
  expect_success({"promtool", "test", "rules", kFullFolder + "alerts_test.yml"});
}

TEST(Observability, PromtoolHasNothingToSayAboutTheMetrics) {
  SKIP_WITHOUT("promtool");
  const TwoServices services;
  for (const auto port : {services.a->port(), services.b.port()}) {
    get(port, "/nowhere");
    get(port, "/health", {}, kPatience, "POST");
    const std::string script = "printf %s \"$0\" | promtool check metrics";
    const auto promtool = run("/bin/sh", {"-c", script, metrics_of(port)});
    EXPECT_EQ(promtool.code, 0);
    EXPECT_EQ(promtool.out + promtool.err, "");
  }
}

TEST(Observability, TheDashboardAsksForWhatIsChosen) {
  for (const auto& [path, query] : queries_of_dashboard()) {
    if (!path.starts_with("/panels/")) continue;
    EXPECT_EQ(replaced(query, R"(namespace=~"$namespace",job=~"$job",instance=~"$instance"})", "")
                  .find('}'),
              std::string::npos)
        << path << ": " << query;
  }
}

TEST(Observability, APrometheusAnswersTheQueriesWithWhatHappened) {
  SKIP_WITHOUT("prometheus");
  constexpr int kEchoed = 30;
  constexpr int kRefused = 10;
  constexpr int kWaiting = 3;
  TwoServices services;
  const Prometheus prometheus(fast_configuration(services));
  const auto up = readme_query("Whether the last scrape");
  EXPECT_TRUE(prometheus.becomes(up, {{"service-a", 1}, {"service-b", 1}}, "job"));

  services.calls(kEchoed, 200);
  services.kill_a();
  services.calls(kRefused, 503);

  // Exact: the counters. One more of each from before Prometheus came.
  EXPECT_TRUE(prometheus.becomes("http_client_request_duration_seconds_count > 0",
                                 {{"", kEchoed + 1}, {"connection_refused", kRefused + 1}},
                                 "error_type"));
  EXPECT_TRUE(prometheus.becomes(up, {{"service-a", 0}, {"service-b", 1}}, "job"));

  // A rate is extrapolated to the ends of its window, by less the more points there are.
  ASSERT_TRUE(eventually([&] { return prometheus.scrapes() >= 20; }, kPatience));
  auto rate = prometheus.ask(readme_query("Requests a second"), "http_response_status_code");
  EXPECT_NEAR(rate["200"] * 300, kEchoed, kEchoed * 0.25);
  EXPECT_NEAR(rate["503"] * 300, kRefused, kRefused * 0.25);

  auto share = prometheus.ask(readme_query("Share of the calls"), "error_type");
  EXPECT_NEAR(share["connection_refused"], double{kRefused} / (kEchoed + kRefused), 0.05);
  EXPECT_EQ(share.size(), 8U);  // the other reasons are there, at 0

  // A's delay or more where it answered, whatever part of the calls was refused at once.
  const auto slow = prometheus.ask(readme_query("How slow"))[""];
  EXPECT_GT(slow, 0.05);
  EXPECT_LE(slow, kSanitized ? 5 : 1);
  EXPECT_LT(prometheus.ask(readme_query("How long"), "error_type")["connection_refused"], slow);

  services.start_a();
  services.a->process().hang();
  std::vector<std::future<void>> calls;
  for (int i = 0; i < kWaiting; ++i) {
    calls.push_back(std::async(std::launch::async, [&services] { services.call(200); }));
  }
  const auto waiting = readme_query("Calls that wait");
  EXPECT_TRUE(prometheus.becomes(waiting, {{"", kWaiting}}));
  services.a->process().signal(SIGCONT);
  calls.clear();  // awaits them
  EXPECT_TRUE(prometheus.becomes(waiting, {{"", 0}}));
}

// When each alert fires is alerts_test.yml's.
TEST(Observability, APrometheusInAClusterHasDataForEveryQueryAndEveryMetricOfTheAlerts) {
  SKIP_WITHOUT("prometheus");
  TwoServices services;
  const Prometheus prometheus(kubernetes_configuration(services));
  EXPECT_TRUE(prometheus.becomes("up", {{"service-a-0", 1}, {"service-b-0", 1}}, "pod"));
  services.calls(3, 200);
  get(services.a->port(), "/echo?msg=hello");
  ASSERT_TRUE(prometheus.becomes("sum(http_client_request_duration_seconds_count)", {{"", 5}}));

  auto queries = queries_of_readme();
  for (const auto& [path, query] : queries_of_dashboard()) queries[path] = filled_in(query);
  EXPECT_GT(queries.size(), 20U);
  for (const auto& [where, query] : queries) {
    if (query.find("http_route=\"\"") != std::string::npos) continue;  // nobody was turned away
    EXPECT_FALSE(prometheus.ask(query).empty()) << where << "\n" << query;
  }
  // There before the first, which a rate does not see otherwise.
  EXPECT_EQ(prometheus.ask(
                "http_server_request_duration_seconds_count{http_response_status_code=\"500\"}"),
            (Prometheus::Values{{"", 0}}));
  // What the alerts read is there as well, though they find nothing amiss.
  static const std::regex metric(
      "\\b(http_(server|client)|process|build|log|two_services)[_:][a-z_:]+");
  const std::set<std::string> known = prometheus.api("label/__name__/values");
  const auto rules = prometheus.api("rules");
  for (const auto& rule : rules.at("groups").at(0).at("rules")) {
    EXPECT_EQ(rule.at("health"), "ok") << rule;
    const auto query = rule.at("query").get<std::string>();
    for (std::sregex_iterator each(query.begin(), query.end(), metric), end; each != end; ++each) {
      EXPECT_TRUE(known.contains(each->str())) << rule.at("name") << ": " << each->str();
    }
  }
  services.kill_a();
  EXPECT_TRUE(prometheus.becomes("ALERTS{namespace=\"shop\"}",
                                 {{"ServiceADown", 1}, {"InstanceDown", 1}}, "alertname"));
  const auto alerts = prometheus.api("alerts").dump();
  EXPECT_EQ(alerts.find("<error"), std::string::npos) << alerts;  // of a template
}

TEST(Observability, AnAlertmanagerKeepsQuietAboutWhatIsExplained) {
  SKIP_WITHOUT("prometheus-alertmanager");
  const TemporaryFolder folder;
  const auto readme = read_file(kFolder + "README.md");
  const auto begin = readme.find("```yaml\n") + 8;
  write_file(folder / "alertmanager.yml",
             "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n" +
                 readme.substr(begin, readme.find("```", begin) - begin));
  Process process({"prometheus-alertmanager",
                   "--config.file=" + (folder / "alertmanager.yml").string(),
                   "--storage.path=" + (folder / "data").string(),
                   "--web.listen-address=127.0.0.1:0", "--cluster.listen-address="});
  const auto port = port_it_listens_on(process);
  const std::string url = "--alertmanager.url=http://127.0.0.1:" + std::to_string(port);

  // The alert, and whether it is told.
  const auto alert = [](const std::string& name, const std::string& severity,
                        const std::string& where, const std::string& job) {
    return std::vector<std::string>{"alertname=" + name, "severity=" + severity,
                                    "namespace=" + where, "job=" + job};
  };
  const std::vector<std::pair<std::vector<std::string>, bool>> alerts{
      {alert("ServiceADown", "critical", "x", "a"), true},
      {alert("ServiceAFailing", "critical", "x", "b"), false},
      {alert("InstanceDown", "warning", "x", "a"), false},
      {alert("InstanceDown", "warning", "x", "b"), true},
      {alert("ServiceAFailing", "critical", "y", "b"), true},
      {alert("ServiceAFailing", "warning", "y", "b"), false},
      {alert("ServiceBErrors", "warning", "y", "b"), true}};
  for (const auto& [labels, told] : alerts) {
    std::vector<std::string> argv{"amtool", "alert", "add", url};
    argv.insert(argv.end(), labels.begin(), labels.end());
    expect_success(argv);
  }
  for (const auto& [labels, told] : alerts) {
    std::string target = "/api/v2/alerts?active=" + std::string(told ? "true" : "false");
    target += told ? "&inhibited=false" : "&inhibited=true";
    for (const auto& label : labels) target += "&filter=" + percent_encode(label);
    const auto is_so = [&] { return get(port, target, {}, kPatience).json().size() == 1; };
    EXPECT_TRUE(eventually(is_so, kPatience)) << testing::PrintToString(labels);
  }
}

}  // namespace
}  // namespace tests
