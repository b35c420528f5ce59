// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/sharding/replicas.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <span>
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

/// Copies of a small table and of a larger one on every rank. All of one dtype travel in one way: whole where ranks see most rows.
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
constexpr std::int64_t few = 40, many = 20'000;

/// Notes which collectives a step took.
struct Noting : Threads {
  explicit Noting(Threads base) : Threads(std::move(base)) {}
  int reduced = 0, gathered = 0;
  auto all_reduce(at::Tensor tensor, ReduceOp op) {
    ++reduced;
    return Threads::all_reduce(std::move(tensor), op);
  }
  auto all_gather_v(at::Tensor tensor) {
    ++gathered;
    return Threads::all_gather_v(std::move(tensor));
  }
};

/// Tables and state after three steps of batches whose rows ranks share out, the first rank without any.
template <class Topology> std::vector<at::Tensor> trained(Topology& topology, std::int64_t rows, at::ScalarType dtype) {
  ShardingPolicy sharding{topology, {.plan = copies(rows, topology.world_size()), .seed = 4}};
  auto model = sharding.apply(declared(rows, dtype));
  Optimizer step{model, Sgd{}};
  cases::Draw draw(8);
  for (int i = 0; i < 3; ++i) {
    const auto whole = cases::random_features(draw, {"small", "large"}, {9, rows - rows / 4}, 30, {.longest_bag = 7});
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
        CHECK(untouched.sum().item<std::int64_t>() >= std::max(rows - 3 * 30 * 7, rows / 4));
        CHECK(untouched.sum().item<std::int64_t>() < rows - 20);
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

  TEST_CASE("what moves fewer bytes is what a step does: rows that were seen, or whole tables once ranks together see enough of them") {
    constexpr std::int64_t rows = 90;                            // whole: 2 (90 * 17 + 9 * 4) * 4 = 12,528 bytes
    for (const std::int64_t seen : {20, 90})
      for (const int ranks : {1, 2, 4, 8, 9})
        Threads::run(ranks, [&](Threads threads) {
          Noting topology(std::move(threads));
          ShardingPolicy sharding{topology, {.plan = copies(rows, ranks)}};
          auto model = sharding.apply(declared(rows, at::kFloat));
          std::vector<std::int64_t> ids{1, 1};                   // a row of the small table is 8 + 3 * 4 bytes, twice or once
          for (std::int64_t i = 0; i < seen; ++i) ids.push_back(i);
          const auto batch = KeyedJaggedTensor::from_lengths({"small", "large"}, at::tensor(ids, at::kLong),
                                                             at::tensor({std::int64_t{2}, seen}, at::kLong));
          model(batch).values().sum().backward();
          topology.reduced = topology.gathered = 0;
          const auto sums = model.runtime().sums(topology, model.runtime().exchange(topology), false);
          const bool whole = ranks * (20 + seen * (8 + 16 * 4)) >= 12'528;
          CHECK(whole == (seen == 90 ? ranks >= 2 : ranks >= 9));
          CHECK(topology.reduced == (ranks > 1 && whole));
          CHECK(topology.gathered == (ranks > 1 && !whole));
          CHECK(static_cast<std::int64_t>(sums[1].gradients.rows.size()) == seen);
          CHECK(sums[1].gradients.sums.eq(ranks).all().item<bool>());
          CHECK(sums[0].gradients.rows == std::vector<std::int64_t>{1});
          CHECK(sums[0].gradients.sums.eq(2 * ranks).all().item<bool>());
        });
  }

  TEST_CASE("a rank has routes to its own copies only, and sends no rank words about them") {
    for (const int ranks : {2, 5})
      Threads::run(ranks, [&](Threads topology) {
        const auto self = static_cast<std::size_t>(topology.rank());
        auto plan = copies(many, ranks);
        plan.tables[0].shards = row_wise_shards(9, 3, ranks);
        auto model = ShardingPolicy(topology, {.plan = plan}).apply(declared(many, at::kFloat));
        const auto& routing = model.runtime().routing();
        CHECK(routing.routes.size() == plan.tables[0].shards.size() + 1);
        for (std::size_t rank = 0; rank < routing.routes_of.size(); ++rank) CHECK(routing.routes_of[rank].size() == 1 + (rank == self));
        const auto none = KeyedJaggedTensor::from_lengths({"small", "large"}, at::zeros({0}, at::kLong), at::zeros({2}, at::kLong));
        auto capture = detail::own_bags(routing, std::span(&none, 1), false);
        const auto message = detail::pack_ids(routing, capture, self, false);
        for (std::size_t rank = 0; rank < routing.routes_of.size(); ++rank) CHECK(message.counts_out[rank] == 4);   // of the row-wise table
      });
  }
}

}  // namespace rookery
