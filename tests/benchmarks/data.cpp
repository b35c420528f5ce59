// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// How fast the readers are, on files that it writes first: benchmark_data [MEGABYTES] [ROUNDS]. CPU time of one thread, so that other
// work on the machine disturbs little; the median round, and the fastest and the slowest.

#include <ATen/Parallel.h>

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/core/text.hpp>
#include <rookery/data/criteo.hpp>
#include <rookery/data/read_table.hpp>
#include <rookery/data/synthetic_criteo.hpp>

namespace rk = rookery;

namespace {

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Prints the speed of `work()`, which reads `bytes`.
template <class Work> void measure(const char* name, std::uintmax_t bytes, int rounds, Work work) {
  std::vector<double> seconds;
  for (int round = 0; round < rounds; ++round) {
    const double begin = cpu_seconds();
    work();
    seconds.push_back(cpu_seconds() - begin);
  }
  std::ranges::sort(seconds);
  const double megabytes = static_cast<double>(bytes) / 1e6;
  fmt::print("{:<28} {:6.0f} MB/s [{:.0f}, {:.0f}], {:.2f} s of {:.0f} MB\n", name, megabytes / seconds[seconds.size() / 2],
             megabytes / seconds.back(), megabytes / seconds.front(), seconds[seconds.size() / 2], megabytes);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t megabytes = argc > 1 ? std::atoll(argv[1]) : 100;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 5;
  at::set_num_threads(1);
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("rookery_benchmark_{}", ::getpid());
  std::filesystem::create_directories(folder);

  const auto criteo = (folder / "criteo.tsv").string();
  rk::SyntheticCriteo().write(criteo, 0, megabytes * 1'000'000 / 261);
  measure("Criteo lines", std::filesystem::file_size(criteo), rounds, [&] {
    rk::LineReader lines({criteo});
    for (rk::CriteoLine line; lines.next();) rk::check<rk::DataError>(rk::parse_criteo_line(lines.line(), line).why.empty(), "a bad line");
  });
  measure("Criteo batches of 2048", std::filesystem::file_size(criteo), rounds, [&] {
    const rk::CriteoReader reader({.paths = {criteo}, .rows = {1'000'000}});
    for (auto& batch : reader.epoch()) rk::check<rk::DataError>(batch.size() > 0, "an empty batch");
  });

  const auto table = (folder / "table.csv").string();
  {
    std::ofstream file(table);
    file << "y,user,item,time\n";
    for (std::int64_t row = 0; row < megabytes * 1'000'000 / 31; ++row) {
      const auto draw = [&](std::uint64_t salt, std::uint64_t most) {
        return rk::mix64(static_cast<std::uint64_t>(row) * 4 + salt) % most;
      };
      file << fmt::format("{},{},{},{}\n", row % 2, rk::mix64(draw(1, 1'000'000)) % 100'000'000'000,
                          rk::mix64(draw(2, 300'000)) % 10'000'000'000, draw(3, 100'000));
    }
  }
  for (const auto rows : {rk::IdRows::whole_file, rk::IdRows::hashed})
    measure(rows == rk::IdRows::hashed ? "CSV, hashed ids" : "CSV, whole-file ids", std::filesystem::file_size(table), rounds, [&] {
      const auto count = rows == rk::IdRows::hashed ? 1'000'000 : 0;
      rk::read_table({.file = {.paths = {table}},
                      .label = {.column = "y"},
                      .ids = {{.column = "user", .rows = rows, .num_embeddings = count},
                              {.column = "item", .rows = rows, .num_embeddings = count}},
                      .split = rk::SplitByHash{.terms = {{.column = "(row)"}}}});
    });
  std::filesystem::remove_all(folder);
}
