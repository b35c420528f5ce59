// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The least batch, model and loss that fit together, for the mistakes of this folder to be made in.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>

namespace rk = rookery;

using Tables = rk::EmbeddingBagCollection<rk::Rules<rk::Sgd>>;

struct Batch {
  rk::KeyedJaggedTensor ids;
  std::int64_t size() const { return ids.stride(); }
};
struct Output {
  at::Tensor values;
};
struct Sum {
  at::Tensor operator()(const Output& output, const Batch&) const { return output.values.sum(); }
  at::Tensor normaliser(const Batch& batch) const { return batch.ids.values().sum(); }
};

/// Has all that a model needs.
struct Fitting {
  Tables tables;
  static constexpr auto members() { return rk::members("tables", &Fitting::tables); }
  auto lookups(const Batch& b) const { return rk::lookups(rk::lookup<&Fitting::tables>(b.ids)); }
  Output forward(const Batch&, const auto& pooled) { return {get<&Fitting::tables>(pooled).values()}; }
};

/// Places a model of default-made parts.
template <class Model, class Loss, class OneBatch> auto placed() {
  return rk::ShardingPolicy<rk::Local>{}.apply(rk::ModelAndLoss<Model, Loss, OneBatch>{});
}
