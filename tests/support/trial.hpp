// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Trial: a random model, plan, optimizer and stream of batches, all drawn from one seed, so that one number replays a case.
//
// The model has every kind of lookup that there is: sums, means, weighted ones, features that tables share, one collection looked
// up twice, sequences, bags that are sent once for many rows, per-sample weights that require grad. Its batches say for every row
// which lookups its loss reaches.

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/embedding_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/modules/mlp.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/lars_sgd.hpp>
#include <rookery/rules/max_norm.hpp>
#include <rookery/rules/none.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/rowwise_adagrad_with_counter.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/sharded.hpp>
#include <rookery/sparse/batch.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/random_batches.hpp"

namespace rookery::cases {

using AllRules = Rules<Sgd, RowwiseAdagrad, Adagrad, Adam, AdamW, PartialRowwiseAdam, Lamb, PartialRowwiseLamb, LarsSgd, NoUpdate,
                       RowwiseAdagradWithCounter, MaxNorm<RowwiseAdagrad>>;
using Table = EmbeddingBagConfig<AllRules>;
inline constexpr std::int64_t longest_sequence = 4;

struct TrialBatch {
  at::Tensor dense, labels, weights;                         // [B, 3], [B], [B]
  at::Tensor reach;                                          // [B, 4]: 1 where the row's loss reaches bags, negatives, weighted, sequences
  KeyedJaggedTensor bags, negatives, weighted, sequences;
  std::int64_t size() const { return dense.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &TrialBatch::dense, "labels", &TrialBatch::labels, "weights", &TrialBatch::weights, "reach",
                            &TrialBatch::reach, "bags", &TrialBatch::bags, "negatives", &TrialBatch::negatives, "weighted",
                            &TrialBatch::weighted, "sequences", &TrialBatch::sequences);
  }
};

struct TrialOutput {
  at::Tensor logits;                                         // [B]
};

/// The same bags with each that a key repeats left out, and inverse indices.
inline KeyedJaggedTensor without_repeats(const KeyedJaggedTensor& batch) {
  std::vector<std::int64_t> values, lengths, inverse;
  VariableBatch rows;
  for (std::size_t f = 0; f < batch.keys().size(); ++f) {
    std::map<std::vector<std::int64_t>, std::int64_t> seen;
    for (std::int64_t b = 0; b < batch.stride(); ++b) {
      const auto ids = batch.slice(b, b + 1).feature(f).values().to(at::kLong).contiguous();   // [n]
      const std::vector<std::int64_t> bag(ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + ids.numel());
      const auto [found, added] = seen.emplace(bag, seen.size());
      inverse.push_back(found->second);
      if (!added) continue;
      values.insert(values.end(), bag.begin(), bag.end());
      lengths.push_back(ids.numel());
    }
    rows.stride_per_key.push_back(static_cast<std::int64_t>(seen.size()));
  }
  rows.inverse_indices = {batch.keys(),
                          at::tensor(inverse, at::kLong).view({static_cast<std::int64_t>(batch.keys().size()), batch.stride()})};
  return KeyedJaggedTensor::from_lengths(batch.keys(), at::tensor(values, at::kLong), at::tensor(lengths, at::kLong), {}, rows);
}

struct TrialModel {
  EmbeddingBagCollection<AllRules> bags, weighted;
  EmbeddingCollection<AllRules> sequences;
  Mlp over;
  Parameter position;                                        // [8], logarithms of factors of the sample weights, when these are learned
  bool learned = false, repeats = true;                      // of negatives, as they come or sent once
  static constexpr auto members() {
    return rookery::members("bags", &TrialModel::bags, "weighted", &TrialModel::weighted, "sequences",
                            &TrialModel::sequences, "over", &TrialModel::over, "position",
                            &TrialModel::position);
  }

  auto lookups(const TrialBatch& b) const {
    return rookery::lookups(rookery::lookup<&TrialModel::bags>(b.bags),
                            rookery::lookup<&TrialModel::weighted>(learned ? learnt(b.weighted) : b.weighted),
                            rookery::lookup<&TrialModel::sequences>(b.sequences),
                            rookery::lookup<&TrialModel::bags, "negatives">(repeats ? b.negatives : without_repeats(b.negatives)));
  }
  TrialOutput forward(const TrialBatch& b, const auto& pooled) {
    std::vector<at::Tensor> parts{b.dense, reached(get<&TrialModel::bags>(pooled).values(), b, 0),
                                  reached(get<&TrialModel::bags, "negatives">(pooled).values(), b, 1),
                                  reached(get<&TrialModel::weighted>(pooled).values(), b, 2)};
    const auto& found = get<&TrialModel::sequences>(pooled);
    for (const auto& key : found.keys())
      parts.push_back(reached(found[key].to_padded_dense(longest_sequence).sum(1), b, 3));   // [B, D]
    const auto x = at::cat(parts, 1);                                                        // [B, 3 + widths]
    return {over(x).squeeze(1)};                                                             // [B]
  }

 private:
  /// Zeros in the rows whose loss does not reach the lookup; a constant when it reaches it from no row.
  static at::Tensor reached(const at::Tensor& pooled, const TrialBatch& b, std::int64_t lookup) {
    const auto mask = b.reach.select(1, lookup);                                             // [B]
    if (mask.sum().item<double>() == 0) return at::zeros_like(pooled);
    return pooled.mul(mask.unsqueeze(1));                                                    // [B, width]
  }
  /// Weights multiplied by a trained factor for the position in the bag; positive, so that the divisor of a mean stays away from zero.
  KeyedJaggedTensor learnt(const KeyedJaggedTensor& ids) const {
    auto positions = at::empty({ids.values().numel()}, at::kLong);                           // [N]
    auto* out = positions.mutable_data_ptr<std::int64_t>();
    const auto* lengths = ids.lengths().const_data_ptr<std::int64_t>();
    for (std::int64_t bag = 0; bag < ids.lengths().numel(); ++bag)
      for (std::int64_t i = 0; i < lengths[bag]; ++i) *out++ = std::min<std::int64_t>(i, 7);
    const auto device = position.tensor().device();
    const auto factors = position.tensor().exp().index_select(0, positions.to(device));      // [N]
    return KeyedJaggedTensor::from_lengths(ids.keys(), ids.values(), ids.lengths(), ids.weights().to(device).mul(factors), ids.stride());
  }
};

/// Where the weights of the weighted lookup come from: the data, the data as a leaf that requires grad, a parameter.
enum class SampleWeights { given, differentiated, learned };

enum class Cut { even, uneven, first_empty };

struct Trial {
  std::uint64_t seed = 0;
  at::ScalarType dtype = at::kDouble;
  int ranks = 2;                                             // threads; 1: the plan on Local
  int local_world_size = 0;                                  // ranks on each node; 0: all on one
  int steps = 20;
  std::int64_t passes = 1;                                   // forward passes a step
  std::int64_t largest_batch = 12;
  Cut cut = Cut::uneven;
  double unreached = .15;                                    // chance that a rank's loss does not reach a lookup, and that no rank's does
  std::vector<Table> bags{}, weighted{}, sequences{};        // of sequences the pooling is left out
  bool repeats = true;
  SampleWeights sample_weights = SampleWeights::given;
  ShardingOptions placement{};
  std::string dense_rule = "adam";                           // sgd, adagrad or adam
  bool divides = true;
  DivideBy divide_by = DivideBy::weights;
  double clip_norm = 0;
  bool pipelined = false;                                    // whether the sharded run trains in a pipelined loop
};

/// Gradients that are zero but for rounding occur, and a rule turns one of size e into a step of about learning_rate * e / eps: with
/// 1e-8 that is what the law allows, so eps is larger here.
inline RuleChoice<AllRules> draw_rule(Draw& draw) {
  const double decay = draw.chance(.5) ? 0 : draw.real(0, .1);
  switch (draw.integer(0, 11)) {
    case 0: return Sgd{.learning_rate = .1, .weight_decay = decay};
    case 1: return RowwiseAdagrad{.learning_rate = .05, .eps = 1e-6, .weight_decay = decay};
    case 2: return Adagrad{.learning_rate = .05, .eps = 1e-6, .weight_decay = decay};
    case 3: return Adam{.learning_rate = .01, .eps = 1e-6, .weight_decay = decay};
    case 4: return AdamW{.learning_rate = .01, .eps = 1e-6, .weight_decay = decay};
    case 5: return PartialRowwiseAdam{.learning_rate = .01, .eps = 1e-6, .weight_decay = decay};
    case 6: return Lamb{.learning_rate = .01, .eps = 1e-6, .weight_decay = decay};
    case 7: return PartialRowwiseLamb{.learning_rate = .01, .eps = 1e-6, .weight_decay = decay};
    case 8: return LarsSgd{.learning_rate = .1, .eta = .1, .weight_decay = decay};
    case 9: return NoUpdate{};
    case 10: return RowwiseAdagradWithCounter{.learning_rate = .05, .eps = 1e-6, .weight_decay = decay};
    default: return MaxNorm{RowwiseAdagrad{.learning_rate = .05, .eps = 1e-6, .weight_decay = decay}, draw.real(.1, 1)};
  }
}

/// 1 to 4 tables; a later one may share a feature of an earlier one, and may be frozen.
inline std::vector<Table> draw_tables(Draw& draw, const std::string& prefix, at::ScalarType dtype) {
  std::vector<Table> tables;
  for (std::int64_t t = 0; t < draw.integer(1, 4); ++t) {
    const auto name = prefix + std::to_string(t);
    Table table{.name = name,
                .num_embeddings = draw.integer(1, 40),
                .embedding_dim = draw.chance(.1) ? draw.integer(30, 70) : draw.integer(1, 9),
                .pooling = draw.chance(.5) ? PoolingType::sum : PoolingType::mean,
                .data_type = dtype,
                .optimizer = draw_rule(draw),
                .frozen = draw.chance(.1)};
    if (draw.chance(.3)) table.initial = Normal{.3};
    if (draw.chance(.4)) table.feature_names = {name + "_a", name + "_b"};
    if (!tables.empty() && draw.chance(.4))
      table.feature_names = {tables.front().feature_names.empty() ? tables.front().name : tables.front().feature_names[0], name};
    tables.push_back(std::move(table));
  }
  return tables;
}

/// Cuts a box in two, by rows or by columns, up to `depth` times over.
inline void draw_shards(Draw& draw, const ShardBox& box, int depth, int ranks, std::vector<Shard>& shards) {
  const bool by_rows = box.columns() == 1 || (box.rows() > 1 && draw.chance(.5));
  if (depth == 0 || (by_rows ? box.rows() : box.columns()) == 1 || draw.chance(.15)) {
    shards.push_back({box, static_cast<int>(draw.integer(0, ranks - 1))});
    return;
  }
  auto first = box, second = box;
  if (by_rows) first.row_end = second.row_begin = draw.integer(box.row_begin + 1, box.row_end - 1);
  else first.column_end = second.column_begin = draw.integer(box.column_begin + 1, box.column_end - 1);
  draw_shards(draw, first, depth - 1, ranks, shards);
  draw_shards(draw, second, depth - 1, ranks, shards);
}

/// Every table by hand: whole, in blocks of rows, or in any grid.
inline Plan draw_plan(Draw& draw, const Trial& trial) {
  Plan plan;
  for (const auto* tables : {&trial.bags, &trial.weighted, &trial.sequences})
    for (const auto& table : *tables) {
      std::vector<Shard> shards;
      const auto kind = draw.integer(0, 4);
      if (kind == 0)
        shards = table_wise_shards(table.num_embeddings, table.embedding_dim, static_cast<int>(draw.integer(0, trial.ranks - 1)));
      else if (kind == 1) shards = row_wise_shards(table.num_embeddings, table.embedding_dim, trial.ranks);
      else if (kind == 2) shards = data_parallel_shards(table.num_embeddings, table.embedding_dim, trial.ranks);
      else draw_shards(draw, {0, table.num_embeddings, 0, table.embedding_dim}, 3, trial.ranks, shards);
      const auto is_part = [&](const Shard& shard) { return shard.box.rows() < table.num_embeddings; };
      const bool splits_rows = std::any_of(shards.begin(), shards.end(), is_part);
      plan.tables.push_back({.table = table.name, .shards = std::move(shards), .hierarchical = draw.chance(.5) && splits_rows});
    }
  return plan;
}

/// A kind for most tables; the placer does the rest.
inline Constraints draw_constraints(Draw& draw, const Trial& trial) {
  Constraints constraints;
  for (const auto* tables : {&trial.bags, &trial.weighted, &trial.sequences})
    for (const auto& table : *tables)
      if (draw.chance(.9))
        constraints[table.name] = {.kinds = {static_cast<ShardingKind>(draw.integer(0, sharding_kind_names.size() - 1))},
                                   .min_partition = draw.chance(.5) ? 0 : draw.integer(1, 4),
                                   .hierarchical = draw.chance(.5)};
  return constraints;
}

/// A trial from its seed; on `ranks` ranks, or a number of them drawn too.
inline Trial draw_trial(std::uint64_t seed, int ranks = 0, at::ScalarType dtype = at::kDouble) {
  Draw draw(seed);
  Trial trial{.seed = seed, .dtype = dtype, .steps = 5};
  trial.ranks = draw.one_of<int>({1, 2, 3, 4, 4, 8});
  if (ranks > 0) trial.ranks = ranks;
  trial.passes = draw.chance(.6) ? 1 : draw.integer(2, 3);
  trial.cut = draw.one_of<Cut>({Cut::even, Cut::uneven, Cut::first_empty});
  trial.bags = draw_tables(draw, "bag", trial.dtype);
  trial.weighted = draw_tables(draw, "weighted", trial.dtype);
  trial.sequences = draw_tables(draw, "sequence", trial.dtype);
  trial.repeats = draw.chance(.5);
  trial.weighted.front().pooling = PoolingType::sum;         // in a mean, the weight of an only id has no gradient but rounding
  trial.sample_weights = draw.one_of<SampleWeights>({SampleWeights::given, SampleWeights::differentiated, SampleWeights::learned});
  trial.dense_rule = draw.one_of<std::string>({"sgd", "adagrad", "adam"});
  trial.divides = draw.chance(.8);
  trial.divide_by = draw.chance(.5) ? DivideBy::rows : DivideBy::weights;
  trial.clip_norm = draw.chance(.5) ? draw.real(.01, .5) : 0;
  trial.placement.seed = seed;
  trial.local_world_size = trial.ranks % 2 == 0 && draw.chance(.6) ? draw.one_of<int>({2, trial.ranks / 2}) : trial.ranks;
  if (draw.chance(.4)) trial.placement.plan = draw_plan(draw, trial);
  else trial.placement.constraints = draw_constraints(draw, trial);
  trial.placement.exchange.pooled =
      draw.one_of<PooledExchange>({PooledExchange::fewest_bytes, PooledExchange::partial_sums, PooledExchange::unique_rows});
  trial.pipelined = draw.chance(.6);                         // last, so that what a seed gives else stays as it was
  return trial;
}

/// One forward pass: the global batch, and where its rows are cut for the ranks.
struct Round {
  TrialBatch batch;
  std::vector<std::int64_t> cuts;                            // [W + 1]
};

/// The ids of all features of some tables, each below the rows of every table that has the feature.
inline KeyedJaggedTensor draw_ids(Draw& draw, const std::vector<Table>& tables, std::int64_t batch, const FeatureDraw& how) {
  std::map<std::string, std::int64_t> rows;
  for (const auto& table : tables)
    for (const auto& name : table.feature_names.empty() ? std::vector<std::string>{table.name} : table.feature_names)
      rows[name] = rows.contains(name) ? std::min(rows[name], table.num_embeddings) : table.num_embeddings;
  std::vector<std::string> keys;
  std::vector<std::int64_t> counts;
  for (const auto& [name, count] : rows) {
    keys.push_back(name);
    counts.push_back(count);
  }
  return random_features(draw, std::move(keys), counts, batch, how);
}

/// The forward passes of a trial, `passes` for each step.
inline std::vector<Round> draw_rounds(const Trial& trial) {
  Draw draw(trial.seed + 1);
  std::vector<Round> rounds;
  for (std::int64_t i = 0; i < trial.steps * trial.passes; ++i) {
    const auto rows = draw.chance(.05) ? 0 : draw.integer(1, trial.largest_batch);
    Round round{{draw.tensor({rows, 3}, trial.dtype), draw.tensor({rows}).gt(0).to(trial.dtype),
                 draw.tensor({rows}).add(1.1).to(trial.dtype), draw.tensor({rows, 4}).mul(0).add(1).to(trial.dtype),
                 draw_ids(draw, trial.bags, rows, {.id_dtype = draw.chance(.5) ? at::kLong : at::kInt}),
                 draw_ids(draw, trial.bags, rows, {.longest_bag = 7}),
                 draw_ids(draw, trial.weighted, rows, {.is_weighted = true, .weight_dtype = trial.dtype}),
                 draw_ids(draw, trial.sequences, rows, {.longest_bag = longest_sequence})},
                {0}};
    for (int rank = 1; rank < trial.ranks; ++rank)
      round.cuts.push_back(trial.cut == Cut::even ? rows * rank / trial.ranks : draw.integer(0, rows));
    if (trial.cut == Cut::first_empty && trial.ranks > 1) round.cuts[1] = 0;
    std::sort(round.cuts.begin(), round.cuts.end());
    round.cuts.push_back(rows);
    for (std::int64_t lookup = 0; lookup < 4; ++lookup) {
      const bool nowhere = draw.chance(trial.unreached);
      for (int rank = 0; rank < trial.ranks; ++rank)
        if (nowhere || draw.chance(trial.unreached)) {
          const auto begin = round.cuts[static_cast<std::size_t>(rank)], end = round.cuts[static_cast<std::size_t>(rank) + 1];
          round.batch.reach.select(1, lookup).narrow(0, begin, end - begin).zero_();
        }
    }
    rounds.push_back(std::move(round));
  }
  return rounds;
}

}  // namespace rookery::cases
