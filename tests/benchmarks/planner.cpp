// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// How long planning by cost takes: benchmark_planner [TABLES] [RANKS] [MIN_PARTITION] [MEMORY]. All kinds are allowed; tables have
// 1,000 to 131 million rows of 64 to 512 columns and pooling factors of 1 to 20; MEMORY is a rank's, in GiB. CPU time of the one thread.

#include <time.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/core/text.hpp>
#include <rookery/planner/planner.hpp>

namespace rk = rookery;

namespace {

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) try {
  const auto argument = [&](int i, std::int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  std::vector<rk::TableDescription> tables;
  rk::Constraints constraints;
  for (std::uint64_t t = 0; t < static_cast<std::uint64_t>(argument(1, 1000)); ++t) {
    const auto name = fmt::format("t{}", t);
    tables.push_back({.name = "embedding_bags." + name,
                      .table = name,
                      .num_embeddings = std::int64_t{1000} << rk::mix64(3 * t) % 18,
                      .embedding_dim = std::int64_t{64} << rk::mix64(3 * t + 1) % 4,
                      .rule = "rowwise_adagrad",
                      .state_numbers_per_row = 1});
    auto& asked = constraints[name];
    for (const auto kind : rk::sharding_kind_names) asked.kinds.push_back(rk::sharding_kind(kind));
    asked.min_partition = argument(3, 0);
    asked.pooling_factors = {static_cast<double>(1 + rk::mix64(3 * t + 2) % 20)};
  }
  const rk::TopologyFacts facts{.world_size = static_cast<int>(argument(2, 1024)),
                                .local_world_size = 8,
                                .device = c10::DeviceType::CUDA,
                                .device_memory = argument(4, 32) << 30};
  const double begin = cpu_seconds();
  const auto planned = rk::make_plan(tables, facts, constraints);
  const double seconds = cpu_seconds() - begin;
  fmt::print("{}\n{} tables on {} ranks: {} proposals in {:.2f} s\n", planned.report(4), tables.size(), facts.world_size, planned.proposals,
             seconds);
  return 0;
} catch (const rk::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
