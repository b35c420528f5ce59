// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What the benchmarks beside peers are made of: the generator of ids, the protocol, the machine's limits, and what makes a round void.
#include <rookery/core/parallel.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "benchmarks/limits.hpp"
#include "benchmarks/worker.hpp"
#include "support/python.hpp"
#include "support/test.hpp"

namespace rookery::benchmarks {

TEST_SUITE("benchmarks/embedding") {
  TEST_CASE("ids are drawn alike for one seed, cells have their names, and rounds in which others computed are void") {
    if (!cases::has_python()) {
      MESSAGE("skipped: there is no Python to draw ids with; tests/setup says why");
      return;
    }
    const auto folder = std::filesystem::temp_directory_path() / "rookery_peers_selftest";
    std::filesystem::create_directories(folder);
    CHECK(cases::run_python("benchmarks/peers_selftest.py", {folder.string()}) == "ok\n");
    std::filesystem::remove_all(folder);
  }
  TEST_CASE("a command is a word and named values") {
    const auto command = Command::parse("open subject=collection rows=100,20,3 seconds=.5");
    CHECK(command.word == "open");
    CHECK(command.numbers("rows") == std::vector<std::int64_t>{100, 20, 3});
    CHECK(command.real("seconds") == .5);
    CHECK(command.text("dtype", "float32") == "float32");
    CHECK_THROWS_WITH_AS(command.number("dim"), "'open' lacks dim=", ConfigError);
    CHECK_THROWS_WITH_AS(Command::parse("run forward"), "'forward' is no name=value", ConfigError);
  }
  TEST_CASE("batches are read as they were written, and another shape is refused") {
    const auto file = std::filesystem::temp_directory_path() / "rookery_peers_ids";
    const std::vector<std::int64_t> written{0, 2, 3, 5, 6, 10, 11, 12, 13, 14, 15,   // offsets of 2 features by 2 rows, then ids
                                            0, 2, 3, 5, 6, 20, 21, 22, 23, 24, 25};
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(written.data()), static_cast<std::streamsize>(written.size() * sizeof written[0]));
    const auto read = Requests::read(file.string(), 4, 6);
    REQUIRE(read.count() == 2);
    const auto batches = read.batches(2, at::kInt);
    CHECK((batches[1].values().scalar_type() == at::kInt));
    CHECK(batches[1]["f1"].values()[2].item<std::int64_t>() == 25);
    CHECK(batches[1]["f0"].lengths()[0].item<std::int64_t>() == 2);
    CHECK_THROWS_AS(Requests::read(file.string(), 4, 7), DataError);
    std::filesystem::remove(file);
  }
  TEST_CASE("a count that ranks agree on is the number of calls, after a tenth of it") {
    std::size_t calls = 0;
    const auto said = timed(Command::parse("run count=20"), [&](std::size_t i) { CHECK(i == calls++); });
    CHECK(calls == 23);
    CHECK(said.find(R"("count": 20})") != std::string::npos);
  }
  TEST_CASE("limits go through every row that they are given, however they prefetch") {
    const std::vector<std::int64_t> pooling{3, 1};
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < 40; ++i) ids.push_back(i < 30 ? i * 7 % 50 : i % 30);
    for (const std::int64_t dim : {16, 128}) {
      const HugePages memory(81 * (dim + 16));                 // a table of 50 rows side by side, then one of 30 with a line between rows
      const WalkedRows rows({ids}, {{memory.data(), dim}, {memory.data() + 50 * dim, dim + 16}}, pooling, 10);
      CHECK(rows.of_ids[0].size() == 40);
      CHECK(rows.of_ids[0][31] == 50 * dim + ids[31] * (dim + 16));
      CHECK(rows.distinct[0].size() == rows.ascending[0].size());
      CHECK(std::is_sorted(rows.ascending[0].begin(), rows.ascending[0].end()));
      for (const auto ahead : {Ahead::none, Ahead::t0, Ahead::t1, Ahead::t2, Ahead::write}) {
        std::fill(memory.data(), memory.data() + memory.size(), 0.F);
        walk(memory.data(), rows.distinct[0], dim, true, {ahead, 4});
        std::int64_t changed = 0;
        for (std::int64_t i = 0; i < memory.size(); ++i) changed += memory.data()[i] > 0;
        CHECK(changed == static_cast<std::int64_t>(rows.distinct[0].size()) * dim);
        for (const auto row : rows.of_ids[0]) CHECK((memory.data()[row] > 0 && memory.data()[row + dim - 1] > 0));
        walk(memory.data(), rows.of_ids[0], dim, false, {ahead, 4});
      }
    }
    CHECK_THROWS_AS(walk(HugePages(64).data(), {0}, 64, false, {}), ConfigError);
  }
}

}  // namespace rookery::benchmarks
