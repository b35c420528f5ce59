// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/replicas.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "log/cases.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {
namespace {

using Bags = EmbeddingBagCollection<Rules<Sgd, RowwiseAdagrad, Adagrad>>;

/// Copies of a small table and of a large one on every rank. All of one dtype travel in one way, so the number of rows decides for both.
Bags declared(std::int64_t rows, at::ScalarType dtype) {
  return {{.name = "small", .num_embeddings = 9, .embedding_dim = 3, .data_type = dtype, .optimizer = Adagrad{.learning_rate = .1}},
          {.name = "large",
           .num_embeddings = rows,
           .embedding_dim = 16,
           .data_type = dtype,
           .optimizer = RowwiseAdagrad{.learning_rate = .1}}};
}
Plan copies(std::int64_t rows, int ranks) {
  return {{{"small", data_parallel_shards(9, 3, ranks)}, {"large", data_parallel_shards(rows, 16, ranks)}}};
}
constexpr std::int64_t few = 1'000, many = 20'000;
static_assert(few * 17 + 9 * 4 <= detail::most_dense_numbers && many * 17 > detail::most_dense_numbers);

/// Tables and state after three steps of batches whose rows ranks share out, the first rank without any.
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, std::int64_t rows, at::ScalarType dtype) {
  ShardingPolicy sharding{topology, {.plan = copies(rows, topology.world_size()), .seed = 4}};
  auto model = sharding.apply(declared(rows, dtype));
  Optimizer step{model, Sgd{}};
  cases::Draw draw(8);
  for (int i = 0; i < 3; ++i) {
    const auto whole = cases::random_features(draw, {"small", "large"}, {9, rows}, 30);
    const auto ranks = topology.world_size();
    const auto cut = [&](int rank) { return rank == 0 ? 0 : rank == ranks ? 30 : 30 * (rank - 1) / std::max(1, ranks - 1); };
    model(whole.slice(cut(topology.rank()), cut(topology.rank() + 1))).values().square().sum().backward();
    step();
  }
  for (const auto& table : model.tables()) {                   // each rank's own copy is what rank 0 gives to all
    const auto& name = table.description.name;
    for (const auto& shard : table.shards)
      if (shard.local) CHECK(at::equal(shard.local->storage.weight(), gather_table(model, name)));
  }
  return {gather_table(model, "small"), gather_table(model, "large"), gather_state(model, "small", "momentum1"),
          gather_state(model, "large", "momentum1")};
}

}  // namespace

TEST_SUITE("sharding/replicas") {
  TEST_CASE("copies of small tables and of large ones take local's steps, bit-equal on all ranks, and rows without ids keep every bit") {
    for (const auto dtype : {at::kDouble, at::kFloat})
      for (const auto rows : {few, many}) {
        Local local;
        const auto expected = trained(local, rows, dtype);
        const auto untouched = expected[3].eq(0);                                            // [E]
        CHECK(untouched.sum().item<std::int64_t>() > rows - 300);
        CHECK(untouched.sum().item<std::int64_t>() < rows - 100);
        for (const int ranks : {2, 3, 4})
          Threads::run(ranks, [&](Threads topology) {
            const auto found = trained(topology, rows, dtype);
            for (std::size_t i = 0; i < found.size(); ++i)
              CHECK(cases::difference(found[i], expected[i]) <= cases::tolerance(dtype, "adagrad", 3));
            CHECK(at::equal(found[3].eq(0), untouched));
            const auto kept = untouched.nonzero().squeeze(1);                                // [rows without ids]
            CHECK(at::equal(found[1].index_select(0, kept), expected[1].index_select(0, kept)));
          });
      }
  }

  TEST_CASE("large tables exchange the rows that were seen, in one collective") {
    Threads::run(2, [](Threads threads) {
      cases::Counting topology(std::move(threads));
      ShardingPolicy sharding{topology, {.plan = copies(many, 2)}};
      auto model = sharding.apply(declared(many, at::kFloat));
      const auto batch = KeyedJaggedTensor::from_lengths({"small", "large"}, at::tensor({1, 2}, at::kLong), at::ones({2}, at::kLong));
      model(batch).values().sum().backward();
      topology.taken();
      const auto sums = model.runtime().gradients(topology);
      CHECK(topology.taken() <= 2);                              // with the exchange of gradients, which both tables have no part in
      for (const auto& shard : sums) {
        CHECK(shard.gradients.rows == std::vector<std::int64_t>{shard.table == 0 ? 1 : 2});
        CHECK(shard.gradients.sums.eq(2).all().item<bool>());    // of both ranks
      }
    });
  }
}

}  // namespace rookery
