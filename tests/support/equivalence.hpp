// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The law "sharded equals local" as a function: runs a trial on Local with whole tables, and with its plan on its ranks, and compares
// every tensor that there is: outputs, losses, weights, optimizer state and the gradients of sample weights.

#include <ATen/core/Tensor.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/loss/callable.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/train/pipeline.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/tolerances.hpp"
#include "support/trial.hpp"

namespace rookery::cases {

/// Everything that a run leaves behind, by name.
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The sum of weighted cross entropies, divided by nothing.
struct SumOfBce {
  at::Tensor operator()(const TrialOutput& output, const TrialBatch& batch) const {
    return at::binary_cross_entropy_with_logits(output.logits, batch.labels, batch.weights, {}, at::Reduction::Sum);   // []
  }
};

/// The rows of all ranks, in rank order, on the host.
template <class Topology> at::Tensor of_all_ranks(Topology& topology, const at::Tensor& tensor) {
  return at::cat(all_gather_v(topology, tensor.detach().contiguous()).wait()).cpu();
}

inline KeyedJaggedTensor with_weights(const KeyedJaggedTensor& ids, at::Tensor weights) {
  return KeyedJaggedTensor::from_lengths(ids.keys(), ids.values(), ids.lengths(), std::move(weights), ids.stride());
}

/// The gradient of the sample weights, in the order in which ranks hold them; zeros where there is none.
template <class Topology> at::Tensor weight_gradient(Topology& topology, const Round& round, const KeyedJaggedTensor& ids) {
  const auto gradient = ids.weights().grad().defined() ? ids.weights().grad() : at::zeros_like(ids.weights());
  if constexpr (Topology::is_distributed) return of_all_ranks(topology, gradient);
  std::vector<at::Tensor> parts;
  const auto whole = with_weights(ids, gradient);
  for (std::size_t rank = 0; rank + 1 < round.cuts.size(); ++rank)
    parts.push_back(whole.slice(round.cuts[rank], round.cuts[rank + 1]).weights());
  return at::cat(parts);
}

/// Every table and its state, gathered. Throws when two column shards disagree about the state of a row.
template <class Model> void gather_tables(Model& model, Tensors& found) {
  model.for_each_collection([&](std::string_view, const auto& collection, std::size_t first) {
    for (std::size_t t = 0; t < collection.configs().size(); ++t) {
      const auto& table = model.tables()[first + t];
      const auto& name = table.description.name;
      found.emplace_back(name + ".weight", gather_table(model, name));
      if (collection.configs()[t].frozen) continue;
      const auto slots = collection.configs()[t].optimizer.visit(
          [](const auto& rule) { return std::vector<StateSlot>(rule.state.begin(), rule.state.end()); });
      for (std::size_t s = 0; s < slots.size(); ++s) {
        const auto whole = gather_state(model, name, slots[s].name);
        found.emplace_back(concat(name, ".", slots[s].name), whole);
        for (const auto& shard : table.shards)
          if (shard.local && whole.dim() == 1)
            check<Error>(at::equal(shard.local->storage.state(s).cpu(), whole.narrow(0, shard.box.row_begin, shard.box.rows())),
                         "column shards of '", name, "' disagree about ", slots[s].name);
      }
    }
  });
}

inline EmbeddingCollection<AllRules> sequence_tables(const std::vector<Table>& tables) {
  std::vector<EmbeddingConfig<AllRules>> configs;
  for (const auto& one : tables)
    configs.push_back({.name = one.name,
                       .num_embeddings = one.num_embeddings,
                       .embedding_dim = one.embedding_dim,
                       .feature_names = one.feature_names,
                       .data_type = one.data_type,
                       .initial = one.initial,
                       .optimizer = one.optimizer,
                       .frozen = one.frozen});
  return configs;
}

/// The batches of a rank, one for each forward pass.
struct TrialBatches {
  std::vector<TrialBatch> all;
  std::size_t given = 0;
  std::optional<TrialBatch> next() {
    if (given == all.size()) return {};
    return all[given++];
  }
};

template <class Topology> TrialBatches batches_of_rank(Topology& topology, const Trial& trial, std::span<const Round> rounds) {
  const auto rank = static_cast<std::size_t>(topology.rank());
  TrialBatches mine;
  for (const auto& round : rounds) {
    auto batch = Topology::is_distributed ? slice(round.batch, round.cuts[rank], round.cuts[rank + 1]) : round.batch;
    if (trial.sample_weights == SampleWeights::differentiated)
      batch.weighted = with_weights(batch.weighted, batch.weighted.weights().clone().set_requires_grad(true));
    mine.all.push_back(std::move(batch));
  }
  return mine;
}

/// Trains as the trial says, its tables placed by `placement`, and gathers everything.
template <class Loss, class DenseRule, class Topology>
Tensors train(Topology& topology, const ShardingOptions& placement, const Trial& trial, std::span<const Round> rounds, Loss loss_function,
              DenseRule dense_rule) {
  TrialModel declared{.bags = trial.bags,
                      .weighted = {trial.weighted, {.is_weighted = true}},
                      .sequences = sequence_tables(trial.sequences),
                      .over = {},
                      .position = Parameter({8}, Uniform{1}, 0, trial.dtype),
                      .learned = trial.sample_weights == SampleWeights::learned,
                      .repeats = trial.repeats};
  declared.over = Mlp(3 + 2 * declared.bags.width() + declared.weighted.width() + declared.sequences.width(), {6, 1}, FinalActivation::none, trial.dtype);
  const ShardingPolicy<Topology> sharding(topology, placement);
  auto model = sharding.apply(ModelAndLoss<TrialModel, Loss, TrialBatch>{std::move(declared), loss_function});
  Optimizer step(model, dense_rule, {.clip_norm = trial.clip_norm});
  Tensors found;
  std::vector<at::Tensor> of_sample_weights;                 // their gradients; those of means of one id are zero but for rounding
  std::size_t i = 0;
  const auto pass = [&](const TrialBatch& batch) {
    const auto& round = rounds[i];
    auto [loss, output] = model(batch);
    loss.backward();
    found.emplace_back(concat("logits of pass ", i), of_all_ranks(topology, output.logits));
    const double mean = global_mean(model, loss, batch);                                     // NaN for a global batch without rows
    if (round.batch.size() > 0) found.emplace_back(concat("loss of pass ", i), at::scalar_tensor(mean, at::kDouble));
    if (trial.sample_weights == SampleWeights::differentiated)
      of_sample_weights.push_back(weight_gradient(topology, round, batch.weighted));
    if (static_cast<std::int64_t>(++i) % trial.passes != 0) return;
    step();
    found.emplace_back(concat("gradient norm of step ", step.count()), at::scalar_tensor(step.gradient_norm(), at::kDouble));
  };
  auto batches = batches_of_rank(topology, trial, rounds);
  if (trial.pipelined) {
    for (const auto& batch : pipelined<SparseDist>(model, std::move(batches))) pass(batch);
  } else {
    for (const auto& batch : batches.all) pass(batch);
  }
  if (!of_sample_weights.empty()) found.emplace_back("gradient of sample weights", at::cat(of_sample_weights));
  gather_tables(model, found);
  for (const auto& one : step.dense().parameters()) {
    found.emplace_back(one.name, one.parameter->tensor().detach().cpu().clone());
    for (std::size_t s = 0; s < one.state.size(); ++s) found.emplace_back(concat(one.name, ".", DenseRule::state[s].name), one.state[s].cpu());
    found.emplace_back(concat(one.name, ".steps"), at::scalar_tensor(one.steps, at::kLong));
  }
  return found;
}

/// `train` with the loss and the dense rule that the trial names.
template <class Topology>
Tensors train(Topology& topology, const ShardingOptions& placement, const Trial& trial, std::span<const Round> rounds) {
  const auto with_loss = [&](auto dense_rule) {
    return trial.divides ? train(topology, placement, trial, rounds, Bce{trial.divide_by}, dense_rule)
                         : train(topology, placement, trial, rounds, sum_loss(SumOfBce{}), dense_rule);
  };
  if (trial.dense_rule == "sgd") return with_loss(Sgd{.learning_rate = .1});
  if (trial.dense_rule == "adagrad") return with_loss(Adagrad{.learning_rate = .05, .eps = 1e-6});
  return with_loss(Adam{.learning_rate = .01, .eps = 1e-6});
}

inline Tensors train_locally(const Trial& trial, std::span<const Round> rounds) {
  Local topology;
  auto plain = trial;
  plain.pipelined = false;
  return train(topology, {.seed = trial.placement.seed}, plain, rounds);
}
/// What rank 0 finds.
inline Tensors train_sharded(const Trial& trial, std::span<const Round> rounds) {
  Local local;
  if (trial.ranks == 1) return train(local, trial.placement, trial, rounds);
  Tensors found;
  Threads::run(trial.ranks, [&](Threads topology) {
    auto mine = train(topology, trial.placement, trial, rounds);
    if (topology.rank() == 0) found = std::move(mine);
  }, {.local_world_size = trial.local_world_size});
  return found;
}

/// Whether any part of the trial follows Adam, whose tolerance in float32 is a wider one.
inline std::string_view widest_rule(const Trial& trial) {
  for (const auto* tables : {&trial.bags, &trial.weighted, &trial.sequences})
    for (const auto& table : *tables)
      if (table.optimizer.name().find("adam") != std::string_view::npos || table.optimizer.name().find("lamb") != std::string_view::npos)
        return "adam";
  return trial.dense_rule;
}

/// What is not equal between two runs: the first tensors that differ, how many do, and the seed; empty when the law holds.
inline std::string compare(const Trial& trial, const Tensors& local, const Tensors& sharded) {
  const double allowed = tolerance(trial.dtype, widest_rule(trial), trial.steps);
  std::string wrong;
  int differ = 0;
  for (std::size_t i = 0; i < std::max(local.size(), sharded.size()); ++i) {
    check<Error>(i < local.size() && i < sharded.size() && local[i].first == sharded[i].first,
                 "the two runs of a trial leave different tensors behind");
    const double gap = difference(local[i].second, sharded[i].second);
    if (gap <= allowed) continue;
    if (++differ <= 5) wrong += concat("  ", local[i].first, ": difference ", gap, ", allowed ", allowed, "\n");
  }
  if (differ > 0)
    wrong += concat("  ", differ, " of ", local.size(), " tensors differ in the trial of seed ", trial.seed, " on ", trial.ranks, " ranks");
  return wrong;
}

/// The trial on a group that is there already, and on rank 0 locally; empty on the other ranks and when sharded equals local.
template <class Topology> std::string check_equivalence_on(Topology& topology, const Trial& trial) {
  const auto rounds = draw_rounds(trial);
  const auto sharded = train(topology, trial.placement, trial, rounds);
  return topology.rank() == 0 ? compare(trial, train_locally(trial, rounds), sharded) : "";
}

/// Runs a trial both ways; empty when sharded equals local.
inline std::string check_equivalence(const Trial& trial) {
  const auto rounds = draw_rounds(trial);
  return compare(trial, train_locally(trial, rounds), train_sharded(trial, rounds));
}

}  // namespace rookery::cases
