// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A model whose gradients are what the batch says: the loss is the sum of its parameters and pooled values times given numbers.

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rookery::cases {

using DrivenRules = Rules<Sgd, RowwiseAdagrad, Adam>;

/// The gradient of each thing; what is undefined the loss does not reach.
struct Push {
  at::Tensor a{}, b{};                                       // [2]
  std::vector<std::int64_t> ids{};                           // rows of the table, one a bag
  at::Tensor rows{};                                         // [ids, 2]
  double divisor = 1;
  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
};

struct Driven {
  EmbeddingBagCollection<DrivenRules> item;
  Parameter a, b;                                            // [2]
  static constexpr auto members() { return rookery::members("item", &Driven::item, "a", &Driven::a, "b", &Driven::b); }

  struct Output {
    at::Tensor a, b, rows;
  };
  auto lookups(const Push& push) const {
    auto ids = at::zeros({push.size()}, at::kLong);
    std::copy(push.ids.begin(), push.ids.end(), ids.mutable_data_ptr<std::int64_t>());
    return rookery::lookups(
        rookery::lookup<&Driven::item>(KeyedJaggedTensor::from_lengths({"t"}, ids, at::zeros({push.size()}, at::kLong).fill_(1))));
  }
  Output forward(const Push&, const auto& pooled) { return {a.tensor(), b.tensor(), get<&Driven::item>(pooled).values()}; }
};

struct DotProducts {
  at::Tensor operator()(const Driven::Output& output, const Push& push) const {
    auto loss = at::zeros({}, at::kDouble).set_requires_grad(true).mul(1);
    if (push.a.defined()) loss = loss.add(output.a.mul(push.a).sum());
    if (push.b.defined()) loss = loss.add(output.b.mul(push.b).sum());
    if (push.rows.defined()) loss = loss.add(output.rows.mul(push.rows).sum());
    return loss;                                                                             // []
  }
  at::Tensor normaliser(const Push& push) const { return at::scalar_tensor(push.divisor, at::kDouble); }
};

inline at::Tensor numbers(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

/// Three rows of two and two parameters of two, all zero, in float64.
inline ModelAndLoss<Driven, DotProducts, Push> driven(RuleChoice<DrivenRules> rule = Sgd{.learning_rate = 1}) {
  return {Driven{{{.name = "t", .num_embeddings = 3, .embedding_dim = 2, .data_type = at::kDouble, .initial = Zeros{}, .optimizer = rule}},
                 Parameter({2}, Zeros{}, 0, at::kDouble), Parameter({2}, Zeros{}, 0, at::kDouble)},
          {}};
}

/// Calls `fn(topology)` on Local, then on every rank of 2 and of 3 threads.
template <class Fn> void on_every_topology(Fn&& fn) {
  Local local;
  fn(local);
  for (const int ranks : {2, 3}) Threads::run(ranks, [&](Threads topology) { fn(topology); });
}

/// Places `declared` with its table in blocks of rows.
template <class Declared, class Topology> auto placed(Declared&& declared, Topology& topology) {
  return maybe_shard_model(std::forward<Declared>(declared), topology, {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}}});
}

/// `push` where it happens on this rank: on the last one; the others bring a batch without rows that reaches nothing.
template <class Topology> Push on_last_rank(Topology& topology, Push push) {
  if (topology.rank() == topology.world_size() - 1) return push;
  Push nothing;
  nothing.divisor = 0;
  return nothing;
}

}  // namespace rookery::cases
