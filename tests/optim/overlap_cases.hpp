// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A model of which each rank's loss reaches other parts in other steps, and its training with and without overlap.

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/modules/batch_norm.hpp>
#include <rookery/modules/linear.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/optim/gradient_buckets.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/optim/overlap.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>

#include "support/random_batches.hpp"

namespace rookery::cases::overlap {

struct Batch {
  at::Tensor dense;                                          // [B, 5]
  KeyedJaggedTensor ids;
  bool left = true, right = true;                            // the parts that the loss reaches
  std::int64_t size() const { return dense.size(0); }
};
struct Output {
  at::Tensor values;                                         // [B]
};

/// Two towers over one layer, of which a batch uses one, both or none, and a table; with a norm on request.
struct Towers {
  EmbeddingBagCollection<Rules<Adam>> tables;
  Linear below{8, 6};
  std::optional<BatchNorm> norm;
  Mlp left{6, {7, 5, 1}}, right{6, {4, 1}};
  static constexpr auto members() {
    return rookery::members("tables", &Towers::tables, "below", &Towers::below, "norm", &Towers::norm, "left", &Towers::left, "right",
                            &Towers::right);
  }
  auto lookups(const Batch& b) const { return rookery::lookups(rookery::lookup<&Towers::tables>(b.ids)); }
  Output forward(const Batch& b, const auto& pooled) {
    auto x = below(at::cat({b.dense, get<&Towers::tables>(pooled).values()}, 1));            // [B, 6]
    if (norm) x = (*norm)(x);
    auto values = at::zeros({b.size(), 1});
    if (b.left) values = values.add(left(at::relu(x)));
    if (b.right) values = values.add(right(at::relu(x)));
    return {values.squeeze(1)};
  }
};
struct Squares {
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sub(1).square().sum(); }
  at::Tensor normaliser(const Batch& b) const { return at::scalar_tensor(static_cast<double>(b.size()), at::kDouble); }
};
inline ModelAndLoss<Towers, Squares, Batch> declared() {
  Towers towers;
  towers.tables = {{.name = "t", .num_embeddings = 7, .embedding_dim = 3}};
  return {std::move(towers), {}};
}

inline Batch draw_batch(std::uint64_t seed, std::int64_t rows) {
  Draw draw(seed);
  return {draw.tensor({rows, 5}, at::kFloat), random_features(draw, {"t"}, {7}, rows, {}), draw.chance(.7), draw.chance(.7)};
}

struct How {
  int passes = 1, steps = 6;
  double clip_norm = 0;
  BucketOptions buckets{};
  GradientDivision division = GradientDivision::global_mean;
  bool norm = false;
};

/// Every weight and state after some steps with batches of ranks that reach different parts.
template <class Topology> std::vector<at::Tensor> train(Topology& topology, const How& how) {
  auto towers = declared();
  if (how.norm) towers.model.norm.emplace(6);
  auto model = maybe_shard_model(std::move(towers), topology, {.seed = 3});
  Optimizer step(model, Adam{.learning_rate = .01},
                 {.clip_norm = how.clip_norm, .division = how.division, .buckets = how.buckets});
  std::uint64_t seed = static_cast<std::uint64_t>(topology.rank());
  for (int i = 0; i < how.steps; ++i) {
    for (int pass = 0; pass < how.passes; ++pass) {
      const auto batch = draw_batch(seed += 100, (topology.rank() + i + pass) % 4);
      const auto loss = model(batch).loss;
      loss.backward();
      global_mean(model, loss, batch);                       // another collective between backward and step
    }
    step();
  }
  std::vector<at::Tensor> found{gather_table(model, "t")};
  for (const auto& one : step.dense().parameters()) {
    found.push_back(one.parameter->tensor().detach().clone());
    for (const auto& state : one.state) found.push_back(state.clone());
    found.push_back(at::scalar_tensor(one.steps, at::kLong));
  }
  return found;
}
inline bool same(const std::vector<at::Tensor>& one, const std::vector<at::Tensor>& other) {
  for (std::size_t i = 0; i < one.size(); ++i)
    if (!at::equal(one[i], other[i])) return false;
  return one.size() == other.size();
}

/// Buckets of about 100 bytes, so that there are several of them.
inline BucketOptions small_buckets(Overlap overlap = {}) { return {.bytes = 100, .first_bytes = 20, .overlap = overlap}; }

/// In one pass and in several, with clipping, and divided by pass.
inline std::vector<How> all_ways() {
  return {How{}, How{.clip_norm = .1}, How{.division = GradientDivision::mean}, How{.passes = 3}};
}

/// The first way of training in which overlap changes a bit of this rank's weights or state, or two runs differ; empty where none does.
template <class Topology> std::string differs(Topology& topology) {
  for (std::size_t i = 0; i < all_ways().size(); ++i) {
    auto with = all_ways()[i], alone = with;
    with.buckets = small_buckets(during_backward(with.passes));
    alone.buckets = small_buckets();
    const auto expected = train(topology, alone);
    for (int run = 0; run < 2; ++run)
      if (!same(train(topology, with), expected)) return concat("way ", i, " of training, run ", run, ", differs");
  }
  return "";
}

}  // namespace rookery::cases::overlap
