// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/sinks.hpp>

#include <rookery/log/console.hpp>
#include <rookery/log/json_lines.hpp>
#include <rookery/log/open_metrics.hpp>
#include <rookery/log/progress.hpp>
#include <rookery/log/tensor_board.hpp>

#include "data/files.hpp"
#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

static_assert(LogSink<JsonLines> && LogSink<TensorBoard> && LogSink<OpenMetrics> && LogSink<Console> && LogSink<Progress>);
static_assert(LogSink<Sinks<JsonLines, Progress&>> && !LogSink<int>);

TEST_SUITE("log/sinks") {
  TEST_CASE("one call reaches every sink, those that are kept and those that are referred to") {
    const cases::Folder folder;
    cases::Scratch text, progress_text;
    JsonLines json{Local{}, folder.path("metrics.jsonl")};
    Progress progress(Local{}, {.style = ProgressStyle::rewritten, .out = progress_text.file()});
    progress.add(10);
    progress({});
    Sinks log{json, Console{Local{}, text.file()}, OpenMetrics{Local{}, folder.path("m.prom")}, TensorBoard{Local{}, folder.path("events")},
              progress};
    log(7, {{"loss", .51234}, {"auc", std::nan("")}});
    json(8, {});
    CHECK(text.text() == "step 7  loss 0.5123  auc nan\n");
    CHECK(progress_text.text().ends_with("\r\x1b[Kstep 7  loss 0.5123  auc nan\n"));
    std::ifstream in(folder.path("metrics.jsonl"));
    std::string first, second;
    std::getline(in, first);
    std::getline(in, second);
    CHECK(first == R"({"step":7,"loss":0.51234,"auc":null})");
    CHECK(second == R"({"step":8})");
    CHECK(std::filesystem::file_size(folder.path("m.prom")) > 100);
  }
  TEST_CASE("a console writes on rank 0 only") {
    cases::Scratch text;
    Threads::run(2, [&](Threads topology) {
      Console console{topology, text.file()};
      if (topology.rank() == 1) console(1, {});
    });
    CHECK(text.text().empty());
  }
}

}  // namespace rookery
