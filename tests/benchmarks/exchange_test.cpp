// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "benchmarks/exchange.hpp"

#include <rookery/topology/threads.hpp>

#include <cstdint>
#include <vector>

#include "support/test.hpp"

namespace rookery::benchmarks {
namespace {

const Workload small{.name = "small", .rows = std::vector<std::int64_t>(8, 600), .pooling = std::vector<std::int64_t>(8, 2), .batch = 128};

/// What rank 0 of two counts.
Measured on_two_ranks(ShardingKind kind, ExchangeOptions exchange = {}) {
  Measured measured;
  Threads::run(2, [&](Threads topology) {
    const auto one = measure(topology, small, {.kind = kind, .exchange = exchange, .warm_up = 0, .steps = 8});
    if (topology.rank() == 0) measured = one;
  });
  return measured;
}
double over_formula(const Measured& one) {
  return static_cast<double>(one.forward.bytes + one.step.bytes) / (one.expected.forward + one.expected.step);
}

}  // namespace

TEST_SUITE("benchmarks/exchange") {
  TEST_CASE("what ranks send is what the formulas say, in few messages") {
    for (const auto kind : {ShardingKind::table_wise, ShardingKind::row_wise, ShardingKind::column_wise, ShardingKind::data_parallel})
      for (const auto pooled : {PooledExchange::partial_sums, PooledExchange::unique_rows}) {
        const auto one = on_two_ranks(kind, {.pooled = pooled});
        CAPTURE(to_string(kind));
        CHECK(one.step_us.size() == 8);
        CHECK(over_formula(one) >= .98);
        CHECK(over_formula(one) <= 1.03);
        CHECK(one.forward.collectives <= 3);                   // counts, ids, values
        CHECK(one.step.collectives <= 3);                      // gradients, norm; sums over whole rows or copies
      }
  }
  TEST_CASE("fewest bytes is no more than either way, and half of the numbers' bytes go in float16") {
    for (const auto kind : {ShardingKind::table_wise, ShardingKind::row_wise}) {
      const auto bytes = [&](ExchangeOptions exchange) {
        const auto one = on_two_ranks(kind, exchange);
        return one.forward.bytes + one.step.bytes;
      };
      const auto sums = bytes({.pooled = PooledExchange::partial_sums}), rows = bytes({.pooled = PooledExchange::unique_rows});
      CHECK(bytes({}) <= std::min(sums, rows) * 1.005);
      CHECK(bytes({.forward_precision = CommType::fp16, .backward_precision = CommType::bf16, .pooled = PooledExchange::partial_sums}) <=
            sums * .54);
    }
  }
}

}  // namespace rookery::benchmarks
