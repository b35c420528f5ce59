// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A DLRM that is trained for some steps on whatever topology and device, and everything that it leaves behind, on the host.

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/loss/bce.hpp>
#include <rookery/models/dlrm.hpp>
#include <rookery/optim/optimizer.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/rules.hpp>
#include <rookery/rules/sgd.hpp>
#include <rookery/sharding/gather.hpp>
#include <rookery/sharding/global_mean.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/sparse/batch.hpp>

#include "support/tolerances.hpp"

namespace rookery::device {

using TableRules = Rules<RowwiseAdagrad, Adagrad, Adam, Sgd>;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

struct Clicks {
  at::Tensor dense, labels, weights;                           // [B, 13], [B], [B]
  KeyedJaggedTensor ids;
  std::int64_t size() const { return labels.size(0); }
  static constexpr auto members() {
    return rookery::members("dense", &Clicks::dense, "labels", &Clicks::labels, "weights", &Clicks::weights, "ids", &Clicks::ids);
  }
};

struct Run {
  at::ScalarType dtype = at::kFloat;
  std::string tables = "rowwise_adagrad", dense = "adam";      // rules
  std::int64_t features = 6, rows = 500, dim = 16, batch = 96, steps = 50;
  double clip_norm = 1;
  Constraints constraints{};
};

inline std::string describe(const Run& run) {
  return concat("DLRM, ", run.dtype == at::kDouble ? "float64" : "float32", ", tables by ", run.tables, ", dense by ", run.dense);
}

/// The global batch of a step: bags of none to four ids, some ids far more often than others, labels that follow the ids.
inline Clicks draw_batch(const Run& run, std::int64_t step) {
  std::uint64_t state = mix64(static_cast<std::uint64_t>(step) + 1);
  const auto next = [&](std::int64_t below) {
    state = mix64(state);
    return static_cast<std::int64_t>(state % static_cast<std::uint64_t>(below));
  };
  std::vector<std::string> keys;
  std::vector<std::int64_t> lengths, ids;
  std::vector<double> labels(static_cast<std::size_t>(run.batch)), dense, weights;
  for (std::int64_t f = 0; f < run.features; ++f) {
    keys.push_back(concat("f", f));
    for (auto& label : labels) {
      lengths.push_back(next(5));
      for (std::int64_t i = 0; i < lengths.back(); ++i) {
        ids.push_back(next(4) == 0 ? next(run.rows) : next(std::min<std::int64_t>(run.rows, 20)));
        label += ids.back() % 3 == 0 ? .3 : -.1;
      }
    }
  }
  for (auto& label : labels) {
    label = label > .2 ? 1 : 0;
    weights.push_back(1 + .25 * static_cast<double>(next(3)));
    for (int column = 0; column < 13; ++column) dense.push_back(static_cast<double>(next(1000)) / 500 - 1);
  }
  const auto whole = [](std::vector<std::int64_t>& numbers) {
    return at::from_blob(numbers.data(), {static_cast<std::int64_t>(numbers.size())}, at::kLong).clone();
  };
  const auto real = [&](std::vector<double>& numbers) {
    return at::from_blob(numbers.data(), {static_cast<std::int64_t>(numbers.size())}, at::kDouble).to(run.dtype, false, /*copy=*/true);
  };
  return {real(dense).view({run.batch, 13}), real(labels), real(weights),
          KeyedJaggedTensor::from_lengths(std::move(keys), whole(ids), whole(lengths))};
}

inline Dlrm<TableRules> declare(const Run& run) {
  std::vector<EmbeddingBagConfig<TableRules>> tables;
  for (std::int64_t f = 0; f < run.features; ++f) {
    tables.push_back({.name = concat("t", f), .num_embeddings = run.rows, .embedding_dim = run.dim, .data_type = run.dtype});
    tables.back().feature_names = {concat("f", f)};
    if (f % 2 == 1) tables.back().pooling = PoolingType::mean;
    if (run.tables == "sgd") tables.back().optimizer = Sgd{.learning_rate = .1};
    else if (run.tables == "adam") tables.back().optimizer = Adam{.learning_rate = .01, .eps = 1e-6};
    else if (run.tables == "adagrad") tables.back().optimizer = Adagrad{.learning_rate = .05, .eps = 1e-6};
    else tables.back().optimizer = RowwiseAdagrad{.learning_rate = .05, .eps = 1e-6};
  }
  return {std::move(tables), 13, {32, run.dim}, {32, 1}, run.dtype};
}

inline at::Tensor on_host(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true); }

template <class Topology> auto place(Topology& topology, const Run& run) {
  const ShardingPolicy<Topology> sharding(topology, {.constraints = run.constraints, .seed = 5});
  return sharding.apply(ModelAndLoss<Dlrm<TableRules>, Bce, Clicks>{declare(run), {}});
}

/// This rank's rows of a step's batch.
template <class Topology> Clicks rows_of(const Topology& topology, const Clicks& whole) {
  const std::int64_t rows = whole.size(), rank = topology.rank(), ranks = topology.world_size();
  return ranks == 1 ? whole : slice(whole, rows * rank / ranks, rows * (rank + 1) / ranks);
}

/// Trains as `run` says; losses, tables, dense parameters and the state of the optimizers, the same on all ranks.
template <class Rule, class Topology> Tensors train(Topology& topology, const Run& run, Rule dense) {
  auto model = place(topology, run);
  Optimizer step(model, dense, {.clip_norm = run.clip_norm});
  Tensors found;
  std::vector<double> losses;
  for (std::int64_t i = 0; i < run.steps; ++i) {
    const auto batch = rows_of(topology, draw_batch(run, i));
    auto [loss, output] = model(batch);
    loss.backward();
    step();
    losses.push_back(global_mean(model, loss, batch));
  }
  found.emplace_back("losses", at::from_blob(losses.data(), {run.steps}, at::kDouble).clone());
  if (run.steps >= 30) {
    const auto of_ten = [&](auto first) { return std::accumulate(first, first + 10, 0.) / 10; };
    const double before = of_ten(losses.begin()), after = of_ten(losses.end() - 10);
    check<Error>(after < before, "the loss went from ", before, " to ", after);
  }
  for (const auto& table : model.tables()) {
    const auto& name = table.description.name;
    found.emplace_back(name, on_host(gather_table(model, name)));
    const auto slots = run.tables == "sgd"    ? std::vector<std::string>{}
                       : run.tables == "adam" ? std::vector<std::string>{"exp_avg", "exp_avg_sq"}
                                              : std::vector<std::string>{"momentum1"};
    for (const auto& slot : slots) found.emplace_back(concat(name, ".", slot), on_host(gather_state(model, name, slot)));
  }
  for (const auto& one : step.dense().parameters()) {
    found.emplace_back(one.name, on_host(one.parameter->tensor()));
    for (std::size_t s = 0; s < one.state.size(); ++s)
      found.emplace_back(concat(one.name, ".", Rule::state[s].name), on_host(one.state[s]));
  }
  return found;
}
template <class Topology> Tensors train(Topology& topology, const Run& run) {
  if (run.dense == "sgd") return train(topology, run, Sgd{.learning_rate = .1});
  if (run.dense == "adagrad") return train(topology, run, Adagrad{.learning_rate = .05, .eps = 1e-6});
  return train(topology, run, Adam{.learning_rate = .01, .eps = 1e-6});
}

/// The largest difference between two runs, by tests/support/tolerances.hpp.
inline double largest_difference(const Tensors& one, const Tensors& other) {
  check<Error>(one.size() == other.size(), "runs leave ", one.size(), " and ", other.size(), " tensors");
  double largest = 0;
  for (std::size_t i = 0; i < one.size(); ++i) largest = std::max(largest, cases::difference(one[i].second, other[i].second));
  return largest;
}
/// What differs by more than the table of tolerances allows.
inline std::string compare(const Run& run, const Tensors& expected, const Tensors& found) {
  const bool by_adam = run.tables == "adam" || run.dense == "adam";
  const double allowed = cases::tolerance(run.dtype, by_adam ? "adam" : run.tables, static_cast<int>(run.steps));
  std::string wrong;
  int differ = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    check<Error>(i < found.size() && expected[i].first == found[i].first, "the runs leave different tensors");
    const double gap = cases::difference(expected[i].second, found[i].second);
    if (!(gap <= allowed) && ++differ <= 5) wrong += concat(expected[i].first, ": difference ", gap, ", allowed ", allowed, "; ");
  }
  return differ == 0 ? "" : concat(wrong, differ, " of ", expected.size(), " tensors differ");
}

}  // namespace rookery::device
