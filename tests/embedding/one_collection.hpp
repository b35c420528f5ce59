// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The least model with tables: what it looks up is its output, and the loss gives each pooled value the gradient that the batch says.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/batch.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rookery::cases {

using EveryRule = Rules<Sgd, Adagrad, RowwiseAdagrad, Adam>;
using Collection = EmbeddingBagCollection<EveryRule>;
using Config = Collection::Config;

struct PooledBatch {
  KeyedJaggedTensor features;
  at::Tensor gradient;  // [B, width], of the loss by the pooled values
  std::int64_t size() const { return features.stride(); }
  static constexpr auto members() { return rookery::members("features", &PooledBatch::features, "gradient", &PooledBatch::gradient); }
};

template <class Set> struct OneCollectionOf {
  EmbeddingBagCollection<Set> tables;
  static constexpr auto members() { return rookery::members("tables", &OneCollectionOf::tables); }
  auto lookups(const PooledBatch& batch) const { return rookery::lookups(rookery::lookup<&OneCollectionOf::tables>(batch.features)); }
  KeyedTensor forward(const PooledBatch&, const auto& pooled) { return get<&OneCollectionOf::tables>(pooled); }
};
using OneCollection = OneCollectionOf<EveryRule>;

struct SumOfOutputs {
  static constexpr bool divides = false;
  at::Tensor operator()(const KeyedTensor& pooled, const PooledBatch& batch) const {
    return pooled.values().mul(batch.gradient).sum();
  }  // []
};

/// A table with its state, whole.
struct WholeTable {
  at::Tensor weight;               // [E, D]
  std::vector<at::Tensor> state;   // per slot, [E] or [E, D]
  std::vector<std::string> slots;  // their names
};

/// Copies this rank's shards to their places in `tables`.
template <class Model> void read_shards(Model& model, std::vector<WholeTable>& tables) {
  const at::NoGradGuard no_grad;
  model.for_each_collection([&](std::string_view, auto& collection, std::size_t first) {
    for (const auto& local : collection.shards()) {
      const auto& box = local.box;
      auto& whole = tables.at(first + local.table);
      whole.weight.narrow(0, box.row_begin, box.rows()).narrow(1, box.column_begin, box.columns()).copy_(local.storage.weight());
      check<Error>(local.storage.state_names() == whole.slots, "the state in storage has other names than that of the rule");
      for (std::size_t slot = 0; slot < whole.slots.size(); ++slot) {
        auto rows = whole.state.at(slot).narrow(0, box.row_begin, box.rows());
        if (rows.dim() == 2) rows = rows.narrow(1, box.column_begin, box.columns());
        rows.copy_(local.storage.state(slot));
      }
    }
  });
}

/// Zeros of the shapes of the collection's tables and their state.
template <class Set> std::vector<WholeTable> empty_tables(const EmbeddingBagCollection<Set>& tables) {
  std::vector<WholeTable> whole;
  for (const auto& config : tables.configs()) {
    whole.push_back({at::zeros({config.num_embeddings, config.embedding_dim}, config.data_type), {}, {}});
    if (config.frozen) continue;
    config.optimizer.visit([&](const auto& rule) {
      for (const auto& slot : rule.state) {
        const auto dtype = compute_dtype(config.data_type);
        whole.back().state.push_back(slot.shape == StateShape::row ? at::zeros({config.num_embeddings}, dtype)
                                                                   : at::zeros({config.num_embeddings, config.embedding_dim}, dtype));
        whole.back().slots.emplace_back(slot.name);
      }
    });
  }
  return whole;
}

struct TrainedTables {
  std::vector<at::Tensor> pooled;               // per step, [B, width]
  std::vector<double> gradient_norms;           // per step
  std::vector<std::vector<WholeTable>> tables;  // before the first step and after each
};

/// One step a batch on `ranks` threads, rank r taking rows B r / W up to B (r + 1) / W; on Local with `ranks` 0.
/// Every second table is row_wise.
template <class Set>
TrainedTables train_tables(const EmbeddingBagCollection<Set>& declared, const std::vector<PooledBatch>& batches, int ranks = 0) {
  TrainedTables result;
  result.tables.assign(batches.size() + 1, empty_tables(declared));
  for (auto& whole : result.tables)
    for (std::size_t t = 0; t < whole.size(); ++t) {
      whole[t].weight = whole[t].weight.clone();
      for (auto& state : whole[t].state) state = state.clone();
    }
  for (const auto& batch : batches) result.pooled.push_back(at::zeros({batch.size(), declared.width()}, declared.data_type()));
  result.gradient_norms.resize(batches.size());
  const auto body = [&]<class Topology>(Topology& topology) {
    Constraints constraints;
    for (std::size_t t = 1; t < declared.configs().size(); t += 2)
      constraints[declared.configs()[t].name] = {.kinds = {ShardingKind::row_wise}};
    auto model = maybe_shard_model(ModelAndLoss<OneCollectionOf<Set>, SumOfOutputs, PooledBatch>{{declared}, {}}, topology,
                                   {.constraints = constraints, .seed = 5});
    Optimizer step(model, Sgd{});
    read_shards(model, result.tables[0]);
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const auto begin = batches[i].size() * topology.rank() / topology.world_size();
      const auto end = batches[i].size() * (topology.rank() + 1) / topology.world_size();
      auto [loss, pooled] = model(Topology::is_distributed ? slice(batches[i], begin, end) : batches[i]);
      loss.backward();
      step();
      const at::NoGradGuard no_grad;
      result.pooled[i].narrow(0, begin, end - begin).copy_(pooled.values());
      if (topology.rank() == 0) result.gradient_norms[i] = step.gradient_norm();
      read_shards(model, result.tables[i + 1]);
    }
  };
  if (ranks == 0) {
    Local local;
    body(local);
  } else {
    Threads::run(ranks, [&](Threads topology) { body(topology); });
  }
  return result;
}

/// Keys, bags of ids and, where given, their weights, feature after feature.
inline KeyedJaggedTensor features_of(std::vector<std::string> keys, const std::vector<std::vector<std::int64_t>>& bags,
                                     const std::vector<std::vector<double>>& bag_weights = {}) {
  std::vector<std::int64_t> ids, lengths;
  std::vector<double> weights;
  for (const auto& bag : bags) {
    ids.insert(ids.end(), bag.begin(), bag.end());
    lengths.push_back(static_cast<std::int64_t>(bag.size()));
  }
  for (const auto& bag : bag_weights) weights.insert(weights.end(), bag.begin(), bag.end());
  return KeyedJaggedTensor::from_lengths(std::move(keys), at::tensor(ids, at::kLong), at::tensor(lengths, at::kLong),
                                         bag_weights.empty() ? at::Tensor{} : at::tensor(weights, at::kDouble));
}

}  // namespace rookery::cases
