// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One run of the exchange benchmark, on whatever topology it is started; rank 0 prints a line of JSON. tests/benchmarks/run starts it.
//
//   benchmark_exchange workload=W1 kind=row_wise [exchange=fewest_bytes|partial_sums|unique_rows] [precision=fp32|fp16|bf16]
//                      [steps=20] [warm_up=5] [alpha=1.05] [most_rows=1000000000]
//   benchmark_exchange workload=W1 ids=FILE ranks=2       writes the ids of 8 batches of every rank, so that others can look up the same

#include <ATen/Parallel.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <string>
#include <type_traits>

#include <rookery/topology/gloo.hpp>
#ifdef WITH_MPI                              // Meson found it
#include <rookery/topology/mpi.hpp>
#endif
#include <rookery/topology/threads.hpp>
#include <rookery/topology/with_topology.hpp>

#include "benchmarks/exchange.hpp"

namespace rk = rookery;
using namespace rookery::benchmarks;

namespace {

std::string json(const char* name, const Traffic& traffic, double microseconds, double formula) {
  return rk::concat(R"(, ")", name, R"(": {"collectives": )", traffic.collectives, R"(, "messages": )", traffic.messages, R"(, "bytes": )",
                    traffic.bytes, R"(, "formula": )", static_cast<std::int64_t>(formula), R"(, "us": )", microseconds,
                    R"(, "exchange_us": )", traffic.seconds * 1e6, "}");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::map<std::string, std::string> given{
        {"workload", "W1"}, {"kind", "table_wise"}, {"exchange", "fewest_bytes"}, {"precision", "fp32"},     {"steps", "20"},
        {"warm_up", "5"},   {"alpha", "1.05"},      {"ranks", "2"},               {"most_rows", "1000000000"}, {"ids", ""}};
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      const auto name = argument.substr(0, argument.find('='));
      rk::check<rk::ConfigError>(given.contains(name) && name.size() < argument.size(), "benchmark_exchange: '", argument, "'");
      given[name] = argument.substr(name.size() + 1);
    }
    auto work = workload(given["workload"], std::atoll(given["most_rows"].c_str()));
    work.alpha = std::atof(given["alpha"].c_str());
    if (!given["ids"].empty()) {
      std::ofstream file(given["ids"], std::ios::binary);
      const int ranks = std::atoi(given["ranks"].c_str());
      for (int rank = 0; rank < ranks; ++rank)
        for (const auto& ids : draw_ids(work, rank, ranks, 8))
          file.write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(ids.size() * sizeof(ids[0])));
      return file.flush() ? 0 : 1;
    }
    const auto precision = given["precision"] == "fp32"   ? rk::CommType::fp32
                           : given["precision"] == "fp16" ? rk::CommType::fp16
                                                          : rk::CommType::bf16;
    const auto pooled = given["exchange"] == "fewest_bytes"   ? rk::PooledExchange::fewest_bytes
                        : given["exchange"] == "unique_rows" ? rk::PooledExchange::unique_rows
                                                             : rk::PooledExchange::partial_sums;
    const Setting setting{.kind = rk::sharding_kind(given["kind"]),
                          .exchange = {.forward_precision = precision, .backward_precision = precision, .pooled = pooled},
                          .warm_up = std::atoi(given["warm_up"].c_str()),
                          .steps = std::atoi(given["steps"].c_str())};
    const auto run = [&](auto topology) {
      at::set_num_threads(1);
      const auto one = measure(topology, work, setting);
      if (topology.rank() != 0) return 0;
      double mean = 0;
      for (const auto us : one.step_us) mean += us / setting.steps;
      const int ranks_here = std::is_same_v<decltype(topology), rk::Threads> ? topology.world_size() : 1;
      const auto line = rk::concat(
          R"({"side": "rookery", "workload": ")", work.name, R"(", "kind": ")", given["kind"], R"(", "exchange": ")", given["exchange"],
          R"(", "precision": ")", given["precision"], R"(", "topology": ")", decltype(topology)::name, R"(", "ranks": )",
          topology.world_size(), json("forward", one.forward, one.forward_us, one.expected.forward),
          json("step", one.step, mean - one.forward_us, one.expected.step), R"(, "cpu_us": )", one.cpu_us / ranks_here,
          R"(, "step_us": )", one.step_us, "}");
      std::puts(line.c_str());
      return 0;
    };
#ifdef WITH_MPI
    return rk::with_topology<rk::Threads, rk::Gloo, rk::Mpi>(rk::Environment::read(), run);
#else
    return rk::with_topology<rk::Threads, rk::Gloo>(rk::Environment::read(), run);
#endif
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", rk::one_line(error).c_str());
    return 1;
  }
}
