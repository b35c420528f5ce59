// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/open_metrics.hpp>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "data/files.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

TEST_SUITE("log/open_metrics") {
  TEST_CASE("the latest values, as gauges, and an end") {
    const cases::Folder folder;
    const auto path = folder.path("m.prom");
    OpenMetrics metrics{Local{}, path, {.labels = {{"job", "a \"b\"\\\n"}}}};
    CHECK(read(path) == "# EOF\n");
    metrics(100, {{"loss", .5}, {"model/norm/over.0.weight", 1.25}});
    metrics(200, {{"loss", .25}, {"auc", std::nan("")}, {"most", HUGE_VAL}, {"least", -HUGE_VAL}});
    const std::string labels = R"({rank="0",job="a \"b\"\\\n"})";
    CHECK(read(path) == concat("# TYPE rookery_step gauge\n# HELP rookery_step step\nrookery_step", labels, " 200\n",
                               "# TYPE rookery_loss gauge\n# HELP rookery_loss loss\nrookery_loss", labels, " 0.25\n",
                               "# TYPE rookery_model_norm_over_0_weight gauge\n",
                               "# HELP rookery_model_norm_over_0_weight model/norm/over.0.weight\n",
                               "rookery_model_norm_over_0_weight", labels, " 1.25\n",
                               "# TYPE rookery_auc gauge\n# HELP rookery_auc auc\nrookery_auc", labels, " NaN\n",
                               "# TYPE rookery_most gauge\n# HELP rookery_most most\nrookery_most", labels, " +Inf\n",
                               "# TYPE rookery_least gauge\n# HELP rookery_least least\nrookery_least", labels, " -Inf\n# EOF\n"));
    CHECK(!std::filesystem::exists(path + ".part"));
  }
  TEST_CASE("names are made names of metrics") {
    CHECK(OpenMetrics::metric_name("a.b/c-d e") == "a_b_c_d_e");
    CHECK(OpenMetrics::metric_name("9lives:x_1") == "_9lives:x_1");
    CHECK(OpenMetrics::metric_name("") == "_");
    CHECK(OpenMetrics::metric_name("\xC3\xA4") == "__");
  }
  TEST_CASE("names and labels that are no UTF-8 are mended in the file") {
    const cases::Folder folder;
    OpenMetrics metrics{Local{}, folder.path("m"), {.labels = {{"job", "a\xFF"}}}};
    metrics(1, {{"K\xC3\xA4se\xC3", 2}});
    CHECK(metrics.text().find("# HELP rookery_K__se_ K\xC3\xA4se\xEF\xBF\xBD\n") != std::string::npos);
    CHECK(metrics.text().find("job=\"a\xEF\xBF\xBD\"") != std::string::npos);
    CHECK(valid_utf8(metrics.text()) == metrics.text());
  }
  TEST_CASE("rank 0 writes, or every rank where it says") {
    const cases::Folder folder;
    Threads::run(2, [&](Threads topology) {
      OpenMetrics one{topology, topology.rank() == 0 ? folder.path("one") : "/nowhere/at/all"};
      one(1, {});
      OpenMetrics each{topology, folder.path(concat("each", topology.rank())), {.every_rank = true}};
      each(1, {{"x", 1}});
    });
    CHECK(read(folder.path("one")).find("rookery_step{rank=\"0\"} 1\n") != std::string::npos);
    CHECK(read(folder.path("each1")).find("rookery_x{rank=\"1\"} 1\n") != std::string::npos);
  }
  TEST_CASE("mistakes are one sentence, and a failed write leaves the old file") {
    CHECK_THROWS_WITH_AS(OpenMetrics(Local{}, "/nowhere/m.prom"),
                         "OpenMetrics: cannot open '/nowhere/m.prom.part': No such file or directory", ConfigError);
    const cases::Folder folder;
    const auto path = folder.path("m");
    CHECK_THROWS_WITH_AS(OpenMetrics(Local{}, path, {.labels = {{"a-b", ""}}}), "OpenMetrics: 'a-b' cannot name a label", ConfigError);
    CHECK_THROWS_WITH_AS(OpenMetrics(Local{}, path, {.labels = {{"__name__", "x"}}}), "OpenMetrics: '__name__' cannot name a label",
                         ConfigError);
    CHECK_THROWS_WITH_AS(OpenMetrics(Local{}, path, {.labels = {{"a", "x"}, {"b", "x"}, {"a", "y"}}}),
                         "OpenMetrics: label 'a' is given twice", ConfigError);
    CHECK(!std::filesystem::exists(path));
    OpenMetrics twice{Local{}, path};
    CHECK_THROWS_WITH_AS(twice(1, {{"a", 1}, {"b", 1}, {"a", 2}}), "OpenMetrics: 'a' is given twice at step 1", ConfigError);
    CHECK_THROWS_WITH_AS(twice(2, {{"step", 7}}), "OpenMetrics: 'step' is given twice at step 2", ConfigError);
    CHECK_NOTHROW(twice(3, {{"a", 1}, {"b", 1}}));
    OpenMetrics metrics{Local{}, path, {.prefix = ""}};
    metrics(1, {{"a.b", 1}});
    CHECK_THROWS_WITH_AS(metrics(2, {{"a/b", 1}}), "OpenMetrics: 'a.b' and 'a/b' are both 'a_b'; rename one", ConfigError);
    if (!std::filesystem::exists("/dev/full")) return;
    const auto before = read(path);
    std::filesystem::create_symlink("/dev/full", path + ".part");
    CHECK_THROWS_WITH_AS(metrics(3, {}), concat("OpenMetrics: cannot write '", path, ".part': No space left on device").c_str(), Error);
    CHECK(read(path) == before);
    CHECK_NOTHROW(metrics(4, {}));
    CHECK(read(path).starts_with("# TYPE step gauge\n# HELP step step\nstep{rank=\"0\"} 4\n"));
  }
}

}  // namespace rookery
