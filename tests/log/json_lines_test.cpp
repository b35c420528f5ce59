// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/json_lines.hpp>

#include <rookery/log/utf8.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include <nlohmann/json.hpp>

#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {

namespace {

/// A path that nothing has used, removed at the end.
class File {
 public:
  File() { std::filesystem::remove(path); }
  ~File() { std::filesystem::remove(path); }
  std::vector<nlohmann::json> lines() const {
    std::ifstream in(path);
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
  std::string path = (std::filesystem::temp_directory_path() / concat("rookery_json_lines_", getpid(), ".jsonl")).string();
};

std::string json(std::string_view text) {
  std::string out;
  append_json(out, text);
  return out;
}

}  // namespace

TEST_SUITE("log/json_lines") {
  TEST_CASE("a line for each call, read back as it was given") {
    File file;
    const double third = 1. / 3;
    {
      JsonLines log{Local{}, file.path};
      log(100, {{"model/norm/over.layers.0.weight", third}, {"auc", .75}});
      CHECK(file.lines().size() == 1);                                             // flushed while the file is open
      log(200, {{"tiny", 5e-324}, {"large", -1.7976931348623157e308}});
      log(300, {});
    }
    const auto lines = file.lines();
    REQUIRE(lines.size() == 3);
    CHECK(lines[0] == nlohmann::json{{"step", 100}, {"model/norm/over.layers.0.weight", third}, {"auc", .75}});
    CHECK(lines[1]["tiny"].get<double>() == 5e-324);
    CHECK(lines[1]["large"].get<double>() == -1.7976931348623157e308);
    CHECK(lines[2].size() == 1);
  }
  TEST_CASE("what is no number is null") {
    File file;
    JsonLines log{Local{}, file.path};
    log(1, {{"nan", std::nan("")}, {"inf", HUGE_VAL}, {"minus", -HUGE_VAL}, {"zero", 0}});
    const auto line = file.lines().at(0);
    CHECK(line["nan"].is_null());
    CHECK(line["inf"].is_null());
    CHECK(line["minus"].is_null());
    CHECK(line["zero"] == 0);
  }
  TEST_CASE("the values of a metric suite are values too") {
    File file;
    MetricSuite metrics{LogLoss{}};
    JsonLines log{Local{}, file.path};
    log(7, metrics.values());
    CHECK(file.lines().at(0).contains(metrics.values()[0].name));
  }
  TEST_CASE("every character survives") {
    for (int c = 0; c < 128; ++c) {
      const std::string text(1, static_cast<char>(c));
      CHECK(nlohmann::json::parse(json(text)).get<std::string>() == text);
    }
    for (const char* text : {"a\"b\\c/d\n\t\r\b\f", "Käse", "\xE2\x82\xAC", "\xF0\x9F\x90\xA6", "\xEF\xBF\xBF", ""})
      CHECK(nlohmann::json::parse(json(text)).get<std::string>() == text);
  }
  TEST_CASE("bytes that are no UTF-8 are replaced, one by one, and the rest stays") {
    const std::string replaced = "\xEF\xBF\xBD";
    CHECK(json("a\xFF"
               "b") == "\"a" + replaced + "b\"");
    CHECK(json("\xC0\x80") == "\"" + replaced + replaced + "\"");                  // overlong
    CHECK(json("\xE2\x82") == "\"" + replaced + replaced + "\"");                  // cut off
    CHECK(json("\xED\xA0\x80") == "\"" + replaced + replaced + replaced + "\"");   // a surrogate
    CHECK(valid_utf8("K\xC3\xA4se\xC3") == "K\xC3\xA4se" + replaced);
    std::mt19937 draw(1);
    for (int i = 0; i < 2000; ++i) {                                               // a strict parser takes whatever comes
      std::string text;
      for (int n = 0; n < 6; ++n) text += static_cast<char>(draw() % 4 == 0 ? draw() % 128 : 128 + draw() % 128);
      CHECK_NOTHROW(nlohmann::json::parse(json(text)));
    }
  }
  TEST_CASE("a file goes on where it was, or starts again") {
    File file;
    JsonLines{Local{}, file.path}(1, {});
    JsonLines{Local{}, file.path}(2, {});
    CHECK(file.lines().size() == 2);
    std::ofstream(file.path, std::ios::app) << "{\"step\":3,\"lo";                 // a run that was killed while it wrote
    JsonLines{Local{}, file.path}(4, {});
    std::ifstream in(file.path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    CHECK(lines == std::vector<std::string>{"{\"step\":1}", "{\"step\":2}", "{\"step\":3,\"lo", "{\"step\":4}"});
    JsonLines{Local{}, file.path, {.mode = OpenMode::truncate}}(5, {});
    CHECK(file.lines() == std::vector<nlohmann::json>{{{"step", 5}}});
  }
  TEST_CASE("only rank 0 writes") {
    File file;
    Threads::run(3, [&](Threads topology) {
      JsonLines log{topology, topology.rank() == 0 ? file.path : "/nowhere/at/all"};
      log(1, {{"rank", topology.rank()}});
    });
    CHECK(file.lines() == std::vector<nlohmann::json>{{{"step", 1}, {"rank", 0}}});
  }
  TEST_CASE("mistakes are one sentence") {
    CHECK_THROWS_WITH_AS(JsonLines(Local{}, "/nowhere/metrics.jsonl"),
                         "JsonLines: cannot open '/nowhere/metrics.jsonl': No such file or directory", ConfigError);
    File file;
    JsonLines log{Local{}, file.path};
    CHECK_THROWS_WITH_AS(log(9, {{"a", 1}, {"b", 2}, {"a", 3}}), "JsonLines: 'a' is given twice at step 9", ConfigError);
    CHECK_THROWS_AS(log(9, {{"step", 1}}), ConfigError);
    if (std::filesystem::exists("/dev/full")) {
      JsonLines full{Local{}, "/dev/full", {.mode = OpenMode::truncate}};
      CHECK_THROWS_WITH_AS(full(1, {}), "JsonLines: cannot write '/dev/full': No space left on device", Error);
    }
  }
}

}  // namespace rookery
