// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/log/progress.hpp>

#include "log/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

const Clock::time_point start{};

Clock::time_point at(double seconds) { return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)); }

}  // namespace

TEST_SUITE("log/progress") {
  TEST_CASE("how far, what, how fast, how long") {
    Progress progress(Local{}, {.total_samples = 5'000'000}, start);
    CHECK(progress.line({}) == "0 of 5M samples (0%)");
    for (int second = 1; second <= 10; ++second) progress.add(81'250, at(second));
    CHECK(progress.line({{"loss", .51234}, {"auc", std::nan("")}}) ==
          "812k of 5M samples (16%)  loss 0.5123  auc nan  81.2k samples/s  ETA 0:52");
    Progress endless(Local{}, {}, start);
    endless.add(10, at(2));
    CHECK(endless.line({}) == "10 samples  5 samples/s");
  }
  TEST_CASE("a line now and then where nobody watches") {
    cases::Scratch out;
    Progress progress(Local{}, {.total_samples = 40, .interval_seconds = 2, .out = out.file()}, start);
    for (int second = 1; second <= 4; ++second) {
      progress.add(10, at(second));
      if (progress.due(at(second))) progress({{"loss", second}}, at(second));
    }
    progress.print("evaluated");
    progress.finish({{"loss", 5}}, at(4));
    CHECK(out.text() == "20 of 40 samples (50%)  loss 2  10 samples/s  ETA 0:02\n"
                        "40 of 40 samples (100%)  loss 4  10 samples/s\nevaluated\n40 of 40 samples (100%)  loss 5  10 samples/s\n");
  }
  TEST_CASE("one line that is rewritten, ten times a second at most") {
    cases::Scratch out;
    Progress progress(Local{}, {.style = ProgressStyle::rewritten, .out = out.file()}, start);
    int written = 0;
    for (int i = 1; i <= 100; ++i) {
      progress.add(1, at(.01 * i));
      if (!progress.due(at(.01 * i))) continue;
      progress({}, at(.01 * i));
      ++written;
    }
    CHECK(written >= 9);
    CHECK(written <= 10);
    progress.print("saved");
    progress.finish({}, at(1));
    const auto text = out.text();
    CHECK(std::count(text.begin(), text.end(), '\r') == written + 2);
    CHECK(std::count(text.begin(), text.end(), '\n') == 2);
    CHECK(text.ends_with("\r\x1b[Ksaved\n\r\x1b[?7l100 samples  100 samples/s\x1b[K\x1b[?7h\n"));
  }
  TEST_CASE("time that is left out does not slow the rate") {
    Progress progress(Local{}, {}, start);
    progress.add(10, at(1));
    progress.resume(at(20));
    progress.add(10, at(21));
    CHECK(progress.line({}) == "20 samples  10 samples/s");
  }
  TEST_CASE("only rank 0 writes, and only it is ever due") {
    cases::Scratch out;
    Threads::run(2, [&](Threads topology) {
      Progress progress(topology, {.out = out.file()}, start);
      CHECK(progress.due(at(100)) == (topology.rank() == 0));
      if (topology.rank() == 0) return;
      progress({}, at(100));
      progress.print("nothing");
      progress.finish({});
    });
    CHECK(out.text().empty());
  }
  TEST_CASE("mistakes are one sentence") {
    CHECK_THROWS_WITH_AS(Progress(Local{}, {.interval_seconds = 0}), "Progress: interval_seconds is 0; it must be positive", ConfigError);
    CHECK_THROWS_WITH_AS(Progress(Local{}, {.total_samples = -1}), "Progress: total_samples is -1; it must not be negative", ConfigError);
  }
}

}  // namespace rookery
