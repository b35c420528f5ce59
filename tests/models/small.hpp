// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A batch as the ready-made models take it, and how to run one of them once.

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <rookery/embedding/config.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>
#include <rookery/topology/local.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rookery::cases {

struct ModelBatch {
  at::Tensor dense{}, labels{};                              // [B, dense features], [B]
  KeyedJaggedTensor ids{};
  std::int64_t size() const { return ids.stride(); }
};

using ModelRules = Rules<RowwiseAdagrad, Adam>;
using ModelTable = EmbeddingBagConfig<ModelRules>;

inline ModelTable model_table(std::string name, std::int64_t rows, std::int64_t dim, std::vector<std::string> features = {}) {
  return {.name = std::move(name), .num_embeddings = rows, .embedding_dim = dim, .feature_names = std::move(features)};
}

/// ids[f][b] are the ids of feature f in row b.
inline KeyedJaggedTensor bags(std::vector<std::string> keys, const std::vector<std::vector<std::vector<std::int64_t>>>& ids) {
  std::vector<std::int64_t> values, lengths;
  for (const auto& feature : ids)
    for (const auto& bag : feature) {
      values.insert(values.end(), bag.begin(), bag.end());
      lengths.push_back(static_cast<std::int64_t>(bag.size()));
    }
  return KeyedJaggedTensor::from_lengths(std::move(keys), at::tensor(values, at::kLong), at::tensor(lengths, at::kLong));
}

/// The logits of a declared model in one process.
template <class Model> at::Tensor logits_of(Model model, const ModelBatch& batch) {
  const ShardingPolicy<Local> here;
  auto placed = here.apply(ModelAndLoss<Model, Bce, ModelBatch>{std::move(model), {}});
  return placed.predict(batch).logits;                                                       // [B]
}

/// The loss before and after training on one batch.
template <class Model> std::pair<double, double> loss_before_and_after(Model model, const ModelBatch& batch) {
  const ShardingPolicy<Local> here;
  auto placed = here.apply(ModelAndLoss<Model, Bce, ModelBatch>{std::move(model), {}});
  Optimizer step(placed, Adam{.learning_rate = .05});
  double first = 0, last = 0;
  for (int i = 0; i < 60; ++i) {
    auto [loss, output] = placed(batch);
    last = loss.template item<double>();
    if (i == 0) first = last;
    loss.backward();
    step();
  }
  return {first, last};
}

}  // namespace rookery::cases
