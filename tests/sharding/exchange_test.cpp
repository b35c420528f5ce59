// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// How embeddings travel: sums or unique rows, narrow precisions, sums inside a node first. That none of it changes a result is the law
// of equivalence_test; here is that each does what it is for.

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/kernels/cpu/narrow.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/exchange_options.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/id_exchange.hpp>
#include <rookery/sharding/lookup_exchange.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "sharding/one_table.hpp"
#include "support/random_batches.hpp"
#include "support/tolerances.hpp"
#include "support/test.hpp"

namespace rk = rookery;

namespace {

using namespace rk::cases::one_table;

/// What rank 0 asks of the shard of the second half of the rows, on two ranks.
rk::detail::Request asked_by_first(const rk::KeyedJaggedTensor& features, rk::PooledExchange pooled) {
  rk::detail::Request asked;
  rk::Threads::run(2, [&](rk::Threads topology) {
    const rk::ShardingPolicy sharding(topology, {.plan = by_rows(), .exchange = {.pooled = pooled}});
    auto model = sharding.apply(Bags{table()});
    model(features);
    if (topology.rank() == 0) asked = model.runtime().captures().front().requests.at(1);
  });
  return asked;
}

/// A run of three steps on `ranks` ranks, every one with its own random bags: the values of the first pass, of all ranks, and the table.
struct Run {
  at::Tensor values, weights;          // [ranks * B, D], [E, D]
};
Run train(int ranks, const rk::ShardingOptions& options, at::ScalarType dtype, bool integers, int local_world_size = 0) {
  Run run;
  rk::Threads::run(ranks, [&](rk::Threads topology) {
    const rk::ShardingPolicy sharding(topology, options);
    auto declared = table(dtype);
    if (integers) declared.initial = rk::Constant{3};
    auto model = sharding.apply(Bags{declared});
    rk::Optimizer step(model, rk::Sgd{});
    rk::cases::Draw draw(static_cast<std::uint64_t>(topology.rank()));
    for (int i = 0; i < 3; ++i) {
      auto features = ids(16, 3, draw.integer(0, rows - 1), draw.integer(1, 9));
      auto values = model(features).values();                                                // [B, D]
      const auto gathered = rk::all_gather_v(topology, values.detach()).wait();
      if (i == 0 && topology.rank() == 0) run.values = at::cat(gathered);
      (integers ? values.sum() : values.mul(values).sum().mul(.01)).backward();
      step();
    }
    auto weights = rk::gather_table(model, "t");
    if (topology.rank() == 0) run.weights = std::move(weights);
  }, {.local_world_size = local_world_size});
  return run;
}

TEST_SUITE("sharding/exchange") {
  TEST_CASE("rows are asked for, each once, where they are fewer bytes than sums") {
    using enum rk::PooledExchange;
    const auto one_row = asked_by_first(ids(16, 1, 70, 0), fewest_bytes);                    // 16 bags, all of row 70
    CHECK(one_row.rows);
    CHECK(one_row.vectors == 1);
    CHECK(one_row.repeats.rows == std::vector<std::int64_t>{20});
    const auto half = asked_by_first(ids(16, 1, 0, 6), fewest_bytes);                        // 16 bags, of which less than half ask here
    CHECK(half.rows);
    CHECK(half.vectors == 7);                                                                 // 54, 60, .. 90
    const auto long_bags = asked_by_first(ids(4, 24, 0, 1), fewest_bytes);                   // 46 rows here for 4 bags
    CHECK_FALSE(long_bags.rows);
    CHECK(long_bags.vectors == 4);
    const auto repeated = asked_by_first(ids(4, 6, 70, 0), fewest_bytes);                    // 24 ids, one row
    CHECK(repeated.vectors == (repeated.rows ? 1 : 4));
    CHECK_FALSE(asked_by_first(ids(16, 1, 70, 0), partial_sums).rows);
    CHECK(asked_by_first(ids(4, 24, 0, 1), unique_rows).vectors == 46);
  }

  TEST_CASE("narrow precisions are exact where the numbers are, and close where they are not") {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      for (const auto pooled : {rk::PooledExchange::partial_sums, rk::PooledExchange::unique_rows}) {
        for (const auto type : {rk::CommType::fp16, rk::CommType::bf16}) {
          CAPTURE(rk::to_string(type));
          const rk::ShardingOptions full{.plan = by_rows(), .exchange = {.pooled = pooled}};
          auto narrow = full;
          narrow.exchange.forward_precision = narrow.exchange.backward_precision = type;
          const auto exact = train(2, full, dtype, true), same = train(2, narrow, dtype, true);
          CHECK(at::equal(exact.values, same.values));
          CHECK(at::equal(exact.weights, same.weights));
          const auto wanted = train(2, full, dtype, false), found = train(2, narrow, dtype, false);
          const double rounding = type == rk::CommType::fp16 ? 0x1p-11 : 0x1p-8;
          CHECK(rk::cases::difference(wanted.values, found.values) > 0);
          CHECK(rk::cases::difference(wanted.values, found.values) < 2 * rounding);
          CHECK(rk::cases::difference(wanted.weights, found.weights) > 0);
          CHECK(rk::cases::difference(wanted.weights, found.weights) < 2 * rounding);
        }
      }
    }
  }

  TEST_CASE("forward and backward precision are apart, and one process rounds nothing") {
    const rk::ShardingOptions full{.plan = by_rows()};
    auto forward = full, backward = full;
    forward.exchange.forward_precision = rk::CommType::bf16;
    backward.exchange.backward_precision = rk::CommType::bf16;
    const auto wanted = train(2, full, at::kFloat, false);
    CHECK_FALSE(at::equal(train(2, forward, at::kFloat, false).values, wanted.values));
    const auto found = train(2, backward, at::kFloat, false);
    CHECK(at::equal(found.values, wanted.values));
    CHECK_FALSE(at::equal(found.weights, wanted.weights));
    CHECK(at::equal(train(1, forward, at::kFloat, false).weights, train(1, full, at::kFloat, false).weights));
  }

  TEST_CASE("rows of a narrow table travel as they are") {
    std::vector<at::Tensor> found(2);
    const auto features = ids(8, 2, 3, 11);
    rk::Local local;
    const rk::EmbeddingConfig<Rules> declared{
        .name = "t", .num_embeddings = rows, .embedding_dim = dim, .data_type = at::kBFloat16, .initial = rk::Normal{.5}};
    auto whole = rk::ShardingPolicy(local).apply(Sequences{{declared}});
    const auto wanted = whole(features)["t"].values();                                       // [ids, D]
    rk::Threads::run(2, [&](rk::Threads topology) {
      const rk::ShardingPolicy sharding(topology, {.plan = by_rows(), .exchange = {.forward_precision = rk::CommType::fp16}});
      auto model = sharding.apply(Sequences{{declared}});
      const auto& routing = model.runtime().routing();
      CHECK((routing.value_dtype(routing.routes[1], true) == at::kBFloat16));
      found[static_cast<std::size_t>(topology.rank())] = model(features)["t"].values().detach();
    });
    for (const auto& values : found) CHECK(at::equal(values, wanted));
  }

  TEST_CASE("a gradient or value beyond float16's range is an error that names table, dtype, ranks and remedy, and changes nothing") {
    rk::cases::check_causes([](const auto& fn) { rk::Threads::run(2, [&](rk::Threads topology) { fn(topology); }); });
  }

  TEST_CASE("sums of a node are added up before they leave it") {
    const rk::ShardingOptions direct{.plan = by_rows(), .exchange = {.pooled = rk::PooledExchange::partial_sums}};
    auto in_nodes = direct;
    in_nodes.plan = by_rows(true);
    for (const bool integers : {true, false}) {
      const auto wanted = train(4, direct, at::kDouble, integers, 2), found = train(4, in_nodes, at::kDouble, integers, 2);
      const double allowed = integers ? 0 : rk::cases::tolerance(at::kDouble, "sgd", 3);
      CHECK(rk::cases::difference(wanted.values, found.values) <= allowed);
      CHECK(rk::cases::difference(wanted.weights, found.weights) <= allowed);
    }
    rk::Threads::run(4, [&](rk::Threads topology) {
      auto model = rk::ShardingPolicy(topology, in_nodes).apply(Bags{table()});
      model(ids(16, 3, 0, 7));
      const auto& capture = model.runtime().captures().front();
      std::vector<std::int64_t> vectors;
      for (const auto& request : capture.requests) vectors.push_back(request.vectors);
      const bool even = topology.rank() % 2 == 0;
      CHECK(vectors == (even ? std::vector<std::int64_t>{16, 0, 16, 0} : std::vector<std::int64_t>{0, 16, 0, 16}));   // one of each node
      CHECK(model.plan().report().find("summed in each node first") != std::string::npos);
    }, {.local_world_size = 2});
  }

  TEST_CASE("ranks with other precisions are refused") {
    const auto mixed = [&](rk::Threads topology) {
      const rk::ShardingPolicy sharding(
          topology, {.exchange = {.backward_precision = topology.rank() == 1 ? rk::CommType::fp16 : rk::CommType::fp32}});
      auto model = sharding.apply(Bags{table()});
    };
    CHECK_THROWS_WITH_AS(rk::Threads::run(2, mixed), doctest::Contains("backward fp16"), rk::ConfigError);
  }
}

}  // namespace
