// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Times of the hot loops by google-benchmark, whose options it takes: --benchmark_filter=step, --benchmark_format=json and the others.

#include <benchmark/benchmark.h>

#include "benchmarks/hot_loops.hpp"

int main(int argc, char** argv) {
  using namespace rookery::benchmarks;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const auto& [name, make] : hot_loops())
    benchmark::RegisterBenchmark(name.c_str(), [make = make](benchmark::State& state) {
      const auto loop = make();
      for (auto _ : state) loop();
      state.SetItemsProcessed(state.iterations() * loop_batch * loop_pooling);
    })->UseRealTime();
  benchmark::RunSpecifiedBenchmarks();
}
