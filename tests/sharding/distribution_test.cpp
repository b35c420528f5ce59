// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// TorchRec's cases of how ids and pooled values travel, seen from outside: what ranks get back, and which rows of which shards a step
// moves.

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/embedding/assign.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/planner/shards.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/threads.hpp>

#include "support/test.hpp"

namespace rookery {
namespace {

using Numbers = std::vector<std::int64_t>;
using Bags = EmbeddingBagCollection<Rules<Sgd>>;
using Sequences = EmbeddingCollection<Rules<Sgd>>;

KeyedJaggedTensor features(std::vector<std::string> keys, const Numbers& lengths, const Numbers& ids) {
  return KeyedJaggedTensor::from_lengths(std::move(keys), at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong));
}
Numbers numbers(const at::Tensor& tensor) {
  const auto row = tensor.detach().to(at::kLong).contiguous().view({-1});                    // [n]
  return {row.const_data_ptr<std::int64_t>(), row.const_data_ptr<std::int64_t>() + row.numel()};
}
/// The rows of all ranks, in rank order.
Numbers of_all(Threads& topology, const at::Tensor& own) {
  return numbers(at::cat(all_gather_v(topology, own.detach().contiguous()).wait()));
}
/// A table of one column of zeros, from which a step takes the gradient.
Bags::Config column_of_zeros(const std::string& name, std::int64_t rows) {
  return {.name = name, .num_embeddings = rows, .embedding_dim = 1, .initial = Zeros{}, .optimizer = Sgd{.learning_rate = 1}};
}

/// Eight places that come rank by rank, two features each: rank r looks place 2r + f up in table f, with a gradient of r + 1. Gives the
/// rows of each table that moved, those of the ranks in `order`.
Numbers moved(const Plan& plan, int local_world_size, const std::vector<int>& order) {
  Numbers places;
  Threads::run(4, [&](Threads topology) {
    ShardingPolicy sharding{topology, {.plan = plan}};
    auto model = sharding.apply(Bags{column_of_zeros("f0", 8), column_of_zeros("f1", 8)});
    Optimizer step{model, Sgd{}};
    const auto rank = topology.rank();
    model(features({"f0", "f1"}, {1, 1}, {2 * rank, 2 * rank + 1})).values().sum().mul(rank + 1).backward();
    step();
    for (const auto* name : {"f0", "f1"}) {
      const auto rows = numbers(gather_table(model, name).neg());                            // [8], the rank + 1 that moved each
      if (rank > 0) continue;
      for (const auto from : order)
        for (std::size_t place = 0; place < rows.size(); ++place)
          if (rows[place] == from + 1) places.push_back(static_cast<std::int64_t>(place));
    }
  }, {.local_world_size = local_world_size});
  return places;
}

}  // namespace

TEST_SUITE("sharding/distribution") {
  TEST_CASE("A15 recat: what comes rank by rank is taken feature by feature, from ranks in order or node by node") {
    const Plan on_one{{{"f0", table_wise_shards(8, 1, 0)}, {"f1", table_wise_shards(8, 1, 0)}}};   // the other ranks hold nothing
    CHECK(moved(on_one, 4, {0, 1, 2, 3}) == Numbers{0, 2, 4, 6, 1, 3, 5, 7});
    const Plan on_nodes{{{"f0", grid_shards(8, 1, 1, 2, 2, 0)}, {"f1", grid_shards(8, 1, 1, 2, 2, 1)}}};
    CHECK(moved(on_nodes, 2, {0, 1, 2, 3}) == Numbers{0, 2, 4, 6, 1, 3, 5, 7});
    CHECK(moved(on_nodes, 2, {0, 2, 1, 3}) == Numbers{0, 4, 2, 6, 1, 5, 3, 7});                    // stagger 2
  }

  TEST_CASE("A16 ids of keys A, B on rank 0 and C on rank 1: each key's bags of both ranks, one behind the other") {
    Threads::run(2, [](Threads topology) {
      ShardingPolicy sharding{topology, {.plan = {{{"A", table_wise_shards(5, 1, 0)}, {"B", table_wise_shards(5, 1, 0)},
                                                   {"C", table_wise_shards(5, 1, 1)}}}}};
      Sequences tables{{.name = "A", .num_embeddings = 5, .embedding_dim = 1},
                       {.name = "B", .num_embeddings = 5, .embedding_dim = 1},
                       {.name = "C", .num_embeddings = 5, .embedding_dim = 1}};
      for (const auto* name : {"A", "B", "C"}) tables.assign(name, at::arange(5, at::kFloat).unsqueeze(1));   // row i holds V<i>
      auto model = sharding.apply(std::move(tables));
      const auto batch = topology.rank() == 0 ? features({"A", "B", "C"}, {1, 0, 2, 0, 1, 1, 1, 1, 0}, {0, 1, 2, 0, 1, 0, 1})
                                              : features({"A", "B", "C"}, {1, 1, 0, 0, 1, 2, 1, 1, 0}, {3, 4, 2, 3, 4, 2, 3});
      const auto found = model(batch);
      const auto check_key = [&](const char* key, const Numbers& lengths, const Numbers& ids) {
        CHECK(of_all(topology, found[key].lengths()) == lengths);
        CHECK(of_all(topology, found[key].values()) == ids);
      };
      check_key("A", {1, 0, 2, 1, 1, 0}, {0, 1, 2, 3, 4});
      check_key("B", {0, 1, 1, 0, 1, 2}, {0, 1, 2, 3, 4});
      check_key("C", {1, 1, 0, 1, 1, 0}, {0, 1, 2, 3});
      for (const auto& table : model.tables())
        CHECK((table.shards[0].local != nullptr) == ((table.description.table == "C") == (topology.rank() == 1)));
    });
  }

  TEST_CASE("A17 pooled values of 2 columns on rank 0 and 1 on rank 1: each rank gets its 3 rows of 3 columns, rank 0's first") {
    Threads::run(2, [](Threads topology) {
      ShardingPolicy sharding{topology, {.plan = {{{"a", table_wise_shards(6, 2, 0)}, {"b", table_wise_shards(6, 1, 1)}}}}};
      Bags tables{{.name = "a", .num_embeddings = 6, .embedding_dim = 2}, {.name = "b", .num_embeddings = 6, .embedding_dim = 1}};
      tables.assign("a", at::arange(12, at::kFloat).view({6, 2}));
      tables.assign("b", at::arange(100, 106, at::kFloat).view({6, 1}));
      auto model = sharding.apply(std::move(tables));
      const auto first = 3 * topology.rank();
      const auto pooled = model(features({"a", "b"}, {1, 1, 1, 1, 1, 1}, {first, first + 1, first + 2, first, first + 1, first + 2}));
      CHECK(pooled.values().sizes() == at::IntArrayRef({3, 3}));
      const Numbers first_rows{0, 1, 100, 2, 3, 101, 4, 5, 102}, last_rows{6, 7, 103, 8, 9, 104, 10, 11, 105};
      CHECK(numbers(pooled.values()) == (topology.rank() == 0 ? first_rows : last_rows));
    });
  }

  const std::vector<std::string> three{"f0", "f1", "f2"};
  const Numbers lengths{0, 3, 2, 0, 1, 5}, blocks{3, 4, 5};
  const auto by_rows = [](int ranks) {
    Plan plan;
    for (std::size_t f = 0; f < 3; ++f) plan.tables.push_back({three[f], row_wise_shards(blocks[f] * ranks, 1, ranks)});
    return plan;
  };
  const auto tables = [] {
    std::vector<Bags::Config> configs;
    for (std::size_t f = 0; f < 3; ++f) configs.push_back(column_of_zeros(three[f], blocks[f] * 3));
    return Bags(configs);
  };

  TEST_CASE("A18 bucketize: each rank gets the ids of its block, counted from the block's first row, in the bags they came from") {
    const Numbers bucket_lengths{0, 2, 0, 0, 0, 1, 0, 1, 2, 0, 1, 3, 0, 0, 0, 0, 0, 1}, bucket_ids{1, 2, 0, 0, 0, 1, 1, 2, 3, 4, 0};
    Threads::run(3, [&](Threads topology) {
      ShardingPolicy sharding{topology, {.plan = by_rows(3)}};
      auto model = sharding.apply(tables());
      Optimizer step{model, Sgd{}};
      const auto batch = topology.rank() == 0 ? features(three, lengths, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0}) : features(three, {}, {});
      const auto of_bag = topology.rank() == 0 ? at::tensor({1.f, 10.f}).unsqueeze(1) : at::zeros({0, 1});   // [B, 1] gradients
      model(batch).values().mul(of_bag).sum().backward();
      step();
      std::size_t bag = 0, id = 0;
      for (int rank = 0; rank < 3; ++rank)
        for (std::size_t f = 0; f < 3; ++f) {
          auto moved = at::zeros({blocks[f]});                                               // of the rank's block, by the spec's lists
          for (const double gradient : {1., 10.})
            for (auto n = bucket_lengths[bag++]; n > 0; --n) moved[bucket_ids[id++]] += gradient;
          for (const auto& shard : model.tables()[f].shards)
            if (shard.local && rank == topology.rank()) CHECK(at::equal(shard.local->storage.weight().squeeze(1).neg(), moved));
        }
      CHECK(id == bucket_ids.size());
    });
  }

  TEST_CASE("A19 ids far beyond a table or below zero are refused with an IndexError on every rank, not wrapped to some row") {
    const auto said = [&](const Numbers& ids) {
      std::string text;
      try {
        Threads::run(3, [&](Threads topology) {
          ShardingPolicy sharding{topology, {.plan = by_rows(3)}};
          auto model = sharding.apply(tables());
          model(topology.rank() == 0 ? features(three, lengths, ids) : features(three, {}, {}));
        });
      } catch (const IndexError& error) {
        text = error.what();
      }
      return text;
    };
    const auto names = [&](const Numbers& ids, const std::string& what) {
      CHECK_MESSAGE(said(ids).find(what) != std::string::npos, said(ids));
    };
    names({1, 2, 3, 100061827127359, 5, 6, 7, -8, 100058153792324, 10, 0}, "feature 'f1' of table 'embedding_bags.f1': id 100061827127359");
    names({1, 2, 3, 4, 5, 6, 7, -8, 9, 10, 0}, "feature 'f2' of table 'embedding_bags.f2': id -8");
    names({1, 2, 3, 4, 5, 6, 7, 8, 100058153792324, 10, 0}, "id 100058153792324");
    CHECK(said({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0}).empty());
  }
}

}  // namespace rookery
