// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Batches whose keys differ in their rows: looked up once a distinct row, and what is learned is that of the batch written out.
#include <rookery/sparse/variable_batch.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Draw;

/// Features "a" and "b" with few distinct rows each, of which `rows` rows are made up; weighted on request.
KeyedJaggedTensor drawn(std::uint64_t seed, std::int64_t rows, bool weighted) {
  Draw draw(seed);
  std::vector<std::int64_t> ids, lengths, strides, inverse;
  std::vector<double> weights;
  for (int f = 0; f < 2; ++f) {
    strides.push_back(rows == 0 ? 0 : draw.integer(1, 4));
    for (std::int64_t b = 0; b < strides.back(); ++b) {
      lengths.push_back(draw.integer(0, 3));
      for (std::int64_t i = 0; i < lengths.back(); ++i) {
        ids.push_back(draw.integer(0, 5));
        weights.push_back(draw.real(.5, 2));
      }
    }
    for (std::int64_t b = 0; b < rows; ++b) inverse.push_back(draw.integer(0, strides.back() - 1));
  }
  return KeyedJaggedTensor::from_lengths({"a", "b"}, at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong),
                                         weighted ? at::tensor(weights, at::kDouble) : at::Tensor{},
                                         VariableBatch{.stride_per_key = strides,
                                                       .inverse_indices = {{"a", "b"}, at::tensor(inverse, at::kLong).view({2, rows})}});
}

/// Output of the last pass, table and state after some steps; `written_out` looks up the batch of equal rows instead.
template <class Topology>
std::vector<at::Tensor> trained(Topology& topology, const Plan& plan, PoolingType pooling, bool weighted, bool written_out) {
  EmbeddingBagCollection<Rules<Adagrad>> tables{
      {{.name = "t", .num_embeddings = 6, .embedding_dim = 3, .feature_names = {"a", "b"}, .pooling = pooling, .data_type = at::kDouble,
        .optimizer = Adagrad{.learning_rate = .1}}},
      {.is_weighted = weighted}};
  ShardingPolicy sharding{topology, {.plan = plan, .seed = 2}};
  auto model = sharding.apply(std::move(tables));
  Optimizer step{model, Adagrad{}};
  at::Tensor out;
  for (std::uint64_t i = 0; i < 5; ++i) {
    // on several ranks every rank but the last has an empty batch
    const auto batch = drawn(i, topology.rank() + 1 == topology.world_size() ? 8 : 0, weighted);
    out = model(written_out ? batch.expanded() : batch).values();                            // [8, 6]
    out.mul(at::arange(1, out.numel() + 1, at::kDouble).view(out.sizes())).sum().backward();
    step();
  }
  return {out.detach(), gather_table(model, "t"), gather_state(model, "t", "momentum1")};
}

/// As trained, of sequences: values and lengths of "a" and "b" in the last pass, table and state. Bags are weighed by their ids' weights
/// and places, so that every row of the batch gives its own gradient.
template <class Topology>
std::vector<at::Tensor> trained_sequences(Topology& topology, const Plan& plan, bool weighted, bool written_out) {
  EmbeddingCollection<Rules<Adagrad>> tables{
      {{.name = "t", .num_embeddings = 6, .embedding_dim = 3, .feature_names = {"a", "b"}, .data_type = at::kDouble,
        .optimizer = Adagrad{.learning_rate = .1}}},
      {.is_weighted = weighted}};
  ShardingPolicy sharding{topology, {.plan = plan, .seed = 2}};
  auto model = sharding.apply(std::move(tables));
  Optimizer step{model, Adagrad{}};
  std::vector<at::Tensor> found;
  for (std::uint64_t i = 0; i < 5; ++i) {
    const auto batch = drawn(i, topology.rank() + 1 == topology.world_size() ? 8 : 0, weighted);
    const auto sequences = model(written_out ? batch.expanded() : batch);
    found.clear();
    at::Tensor loss = at::zeros({}, at::kDouble);
    for (const auto* key : {"a", "b"}) {
      const auto& rows = sequences[key];
      auto factors = at::arange(1, rows.values().numel() + 1, at::kDouble).view(rows.values().sizes());   // [n, 3]
      if (weighted) factors = factors.mul(rows.weights().unsqueeze(1));
      loss = loss.add(rows.values().mul(factors).sum());
      found.push_back(rows.values().detach());
      found.push_back(rows.lengths());
    }
    loss.backward();
    step();
  }
  found.push_back(gather_table(model, "t"));
  found.push_back(gather_state(model, "t", "momentum1"));
  return found;
}

}  // namespace

TEST_SUITE("sharding/variable_batch") {
  TEST_CASE("pooled features of different rows equal the batch written out, forward and trained, on every plan") {
    for (const auto pooling : {PoolingType::sum, PoolingType::mean})
      for (const bool weighted : {false, true}) {
        Local local;
        const auto expected = trained(local, {}, pooling, weighted, true);
        const auto check_same = [&](const std::vector<at::Tensor>& found, bool with_output) {
          for (std::size_t i = with_output ? 0 : 1; i < found.size(); ++i)
            CHECK(found[i].allclose(expected[i], 1e-11, 1e-12));
        };
        check_same(trained(local, {}, pooling, weighted, false), true);
        for (const auto& plan : {Plan{{{"t", row_wise_shards(6, 3, 2)}}}, Plan{{{"t", {{{0, 6, 0, 2}, 1}, {{0, 6, 2, 3}, 0}}}}}})
          Threads::run(2, [&](Threads topology) {
            check_same(trained(topology, plan, pooling, weighted, false), topology.rank() == 1);
          });
      }
  }

  TEST_CASE("sequences of different rows equal the batch written out, forward and trained, on every plan") {
    for (const bool weighted : {false, true}) {
      Local local;
      const auto expected = trained_sequences(local, {}, weighted, true);
      const auto check_same = [&](const std::vector<at::Tensor>& found, bool with_output) {
        for (std::size_t i = with_output ? 0 : 4; i < found.size(); ++i) {
          CHECK(found[i].sizes() == expected[i].sizes());
          CHECK(found[i].allclose(expected[i], 1e-11, 1e-12));
        }
      };
      CHECK(expected[1].numel() == 8);
      check_same(trained_sequences(local, {}, weighted, false), true);
      for (const auto& plan : {Plan{{{"t", row_wise_shards(6, 3, 2)}}}, Plan{{{"t", {{{0, 6, 0, 2}, 1}, {{0, 6, 2, 3}, 0}}}}}})
        Threads::run(2, [&](Threads topology) {
          check_same(trained_sequences(topology, plan, weighted, false), topology.rank() == 1);
        });
    }
  }
  TEST_CASE("sequences keep their keys' own rows where no inverse indices say which belong together") {
    auto model = ShardingPolicy<Local>{}.apply(EmbeddingCollection<Rules<Adagrad>>{
        {{.name = "t", .num_embeddings = 6, .embedding_dim = 3, .feature_names = {"a", "b"}}}});
    const auto batch = KeyedJaggedTensor::from_lengths({"a", "b"}, at::tensor({1, 2}, at::kLong), at::tensor({1, 1, 0}, at::kLong), {},
                                                       VariableBatch{.stride_per_key = {1, 2}});
    const auto sequences = model(batch);
    CHECK(sequences["a"].size() == 1);
    CHECK(sequences["b"].size() == 2);
  }

  TEST_CASE("ids with weights, or without, for a collection that has it otherwise") {
    auto model = ShardingPolicy<Local>{}.apply(EmbeddingBagCollection<Rules<Adagrad>>{
        {{.name = "t", .num_embeddings = 6, .embedding_dim = 3, .feature_names = {"a", "b"}}}});
    CHECK_THROWS_WITH_AS(model(drawn(1, 8, true)), "this collection is given ids with weights, but the collection has is_weighted = false",
                         ShapeError);
  }

  TEST_CASE("without inverse indices nothing says which rows belong together") {
    auto model = ShardingPolicy<Local>{}.apply(EmbeddingBagCollection<Rules<Adagrad>>{
        {{.name = "t", .num_embeddings = 6, .embedding_dim = 3, .feature_names = {"a", "b"}}}});
    const auto batch = KeyedJaggedTensor::from_lengths({"a", "b"}, at::tensor({1, 2}, at::kLong), at::tensor({1, 1, 0}, at::kLong), {},
                                                       VariableBatch{.stride_per_key = {1, 2}});
    CHECK_THROWS_WITH_AS(model(batch),
                         "this collection is given features of [1, 2] rows; pooled features of different rows need inverse indices",
                         ShapeError);
  }
}

}  // namespace rookery
