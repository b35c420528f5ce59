// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What training on a table of examples comes to: a model made for a reader, trained on one part and measured on another.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <rookery/data/prefetch.hpp>
#include <rookery/data/table_reader.hpp>
#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/rookery.hpp>
#include <rookery/train/evaluate.hpp>

namespace rookery::cases {

using TrainedRules = Rules<RowwiseAdagrad>;
using Configs = std::vector<EmbeddingBagConfig<TrainedRules>>;

/// Tables of the named features, or of all.
inline Configs tables(const TableReader& reader, std::int64_t dim, double learning_rate, Initial initial,
                      std::vector<std::string> names = {}) {
  Configs configs;
  for (const auto& feature : reader.features())
    if (names.empty() || std::ranges::find(names, feature.name) != names.end())
      configs.push_back({.name = feature.name,
                         .num_embeddings = feature.num_embeddings,
                         .embedding_dim = dim,
                         .initial = initial,
                         .optimizer = RowwiseAdagrad{.learning_rate = learning_rate}});
  return configs;
}

struct Quality {
  double auc, ne;
};

inline TableBatch as_it_is(TableBatch batch) { return batch; }

/// The seed chooses initial values and the order of rows.
template <class Topology, class Model, class Change = TableBatch(TableBatch)>
Quality train(Topology& topology, const TableReader& reader, Model declared, int epochs, Change change = as_it_is, std::uint64_t seed = 1) {
  ShardingPolicy<Topology> sharding{topology, {.seed = seed}};
  auto model = sharding.apply(ModelAndLoss<Model, Bce, TableBatch>{std::move(declared), {}});
  Optimizer step{model, Adam{.learning_rate = .001}};
  for (int epoch = 0; epoch < epochs; ++epoch)
    for (auto& batch : prefetch(reader.epoch(Part::train, static_cast<std::uint64_t>(epoch)), 2)) {
      auto [loss, output] = model(change(batch));
      loss.backward();
      step();
    }
  std::vector<TableBatch> held_out;
  for (auto& batch : reader.epoch(Part::test)) held_out.push_back(change(batch));
  const auto metrics = evaluate(model, held_out, MetricSuite{Auc{}, NormalizedEntropy{}});
  return {metrics.template get<Auc>().value(), metrics.template get<NormalizedEntropy>().value()};
}

/// Trains what `make(reader)` gives on one rank.
template <class Make, class Change = TableBatch(TableBatch)>
Quality quality(std::shared_ptr<const Table> table, Make make, int epochs, Change change = as_it_is, std::uint64_t seed = 1) {
  const TableReader reader{std::move(table), {.batch_size = 256, .seed = seed}};
  Local local;
  return train(local, reader, make(reader), epochs, change, seed);
}

}  // namespace rookery::cases
