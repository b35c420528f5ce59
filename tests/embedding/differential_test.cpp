// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Lookup, gradient and update of every rule on tables of every dtype, against a plain float64 reference, on random shapes.
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "embedding/one_collection.hpp"
#include "rules/reference_rules.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

using Tables = EmbeddingBagCollection<LibraryRules>;

/// A row of a float64 tensor [E] or [E, D].
Vector row_of(const at::Tensor& tensor, std::int64_t row) {
  const auto width = tensor.dim() == 1 ? 1 : tensor.size(1);
  const auto* first = tensor.const_data_ptr<double>() + row * width;
  return {first, first + width};
}
void set_row(const at::Tensor& tensor, std::int64_t row, const Vector& values) {
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<double>() + row * static_cast<std::int64_t>(values.size()));
}
at::Tensor as_double(const at::Tensor& tensor) { return tensor.detach().to(at::kDouble).contiguous(); }

/// One table as ten lines of math see it.
struct ReferenceTable {
  Tables::Config config;
  at::Tensor weight;                          // [E, D]
  std::map<std::string, at::Tensor> state{};  // [E] or [E, D]
  std::map<std::int64_t, Vector> gradient{};  // of rows with ids
  double largest_term = 0;                    // of the gradients of weights, which cancel to nothing where a mean is of one row

  ReferenceTable(const Tables::Config& table, const at::Tensor& start) : config(table), weight(as_double(start).clone()) {
    if (config.frozen) return;
    config.optimizer.visit([&]<class Rule>(const Rule& rule) {
      for (std::size_t slot = 0; slot < Rule::state.size(); ++slot) {
        std::vector<std::int64_t> shape{config.num_embeddings};
        if (Rule::state[slot].shape == StateShape::element) shape.push_back(config.embedding_dim);
        state[std::string(Rule::state[slot].name)] = at::full(shape, initial_state(rule, slot), at::kDouble);
      }
    });
  }

  bool learns() const { return !config.frozen && config.optimizer.name() != NoUpdate::name; }

  /// Pools a bag into `out`, adds to the gradient of its rows, and gives the gradient of each of its weights.
  Vector bag(const std::vector<std::int64_t>& ids, const Vector& weights, const double* out_gradient, double* out) {
    double divisor = 0;
    for (const double w : weights) divisor += w;
    if (config.pooling == PoolingType::sum) divisor = 1;
    const auto dim = static_cast<std::size_t>(config.embedding_dim);
    const auto* rows = weight.const_data_ptr<double>();
    Vector by_weight(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      auto& sum = gradient.try_emplace(ids[i], dim).first->second;
      for (std::size_t d = 0; d < dim && divisor != 0; ++d) {
        out[d] += weights[i] * rows[static_cast<std::size_t>(ids[i]) * dim + d] / divisor;
        sum[d] += weights[i] * out_gradient[d] / divisor;
      }
    }
    for (std::size_t i = 0; i < ids.size() && divisor != 0; ++i)
      for (std::size_t d = 0; d < dim; ++d) {
        const double value = rows[static_cast<std::size_t>(ids[i]) * dim + d];
        by_weight[i] += out_gradient[d] * (value - (config.pooling == PoolingType::mean ? out[d] : 0)) / divisor;
        largest_term = std::max(largest_term, std::abs(out_gradient[d] * value / divisor));
      }
    return by_weight;
  }

  void update(double step) {
    if (!config.frozen)
      config.optimizer.visit([&](const auto& rule) {
        for (const auto& [id, g] : gradient) {
          ReferenceRow row{row_of(weight, id), {}, step};
          for (const auto& [name, values] : state) row.state[name] = row_of(values, id);
          row.step(rule, g);
          set_row(weight, id, row.w);
          for (const auto& [name, values] : state) set_row(values, id, row.state.at(name));
        }
      });
    gradient.clear();
  }
};

struct Shape {
  std::vector<Tables::Config> configs;
  bool is_weighted = false, weights_need_gradient = false;
  std::vector<PooledBatch> batches;
  int ranks = 0;
};

const std::vector<at::ScalarType> table_dtypes{at::kFloat, at::kBFloat16, at::kHalf, at::kDouble};

/// Of 64 shapes in a row, each gives its first table another pair of rule and dtype.
Shape draw_shape(std::uint64_t seed) {
  Draw draw(seed);
  Shape shape;
  const auto tables = draw.integer(1, 3);
  const std::vector<std::string> features{"a", "b"};
  std::vector<std::int64_t> rows_of_feature{INT64_MAX, INT64_MAX};
  std::int64_t width = 0;
  for (std::int64_t t = 0; t < tables; ++t) {
    std::vector<RuleChoice<LibraryRules>> rules;
    for_each_rule(draw, [&](const auto& rule) { rules.emplace_back(rule); });
    const auto first = table_dtypes[seed / library_rules % table_dtypes.size()];
    const auto another = table_dtypes[static_cast<std::size_t>(draw.integer(0, 2))];
    const auto rows = draw.chance(.3) ? draw.integer(1, 4) : draw.chance(.06) ? draw.integer(2000, 5000) : draw.integer(5, 60);
    // A lone column's gradients may cancel to a float32 sum whose error is large beside it.
    const auto dim = t == 0 ? 1 + static_cast<std::int64_t>(seed % 257) : draw.integer(first == at::kDouble ? 1 : 3, 9);
    const std::vector<std::vector<std::string>> choices{{"a"}, {"b"}, {"a", "b"}};
    const auto names = t == 0 ? choices[2] : draw.one_of(choices);
    shape.configs.push_back({.name = concat("t", t),
                             .num_embeddings = rows,
                             .embedding_dim = dim,
                             .feature_names = names,
                             .pooling = draw.chance(.5) ? PoolingType::sum : PoolingType::mean,
                             .data_type = t == 0 || first == at::kDouble ? first : another,
                             .initial = draw.chance(.05) ? Initial{Zeros{}} : Initial{Uniform{.5}},
                             .optimizer = t == 0 ? rules[seed % library_rules] : draw.one_of(rules),
                             .frozen = t > 0 && draw.chance(.1),
                             .stochastic_rounding = draw.chance(.5)});
    for (const auto& name : names) {
      auto& least = rows_of_feature[name == "b"];
      least = std::min(least, rows);
    }
    width += dim * static_cast<std::int64_t>(names.size());
  }
  shape.is_weighted = draw.chance(.5);
  shape.weights_need_gradient = shape.is_weighted && draw.chance(.5);
  for (auto steps = draw.integer(1, 4); steps > 0; --steps) {
    const auto batch = draw.chance(.08) ? 0 : draw.chance(.06) ? draw.integer(100, 200) : draw.integer(1, 8);
    const FeatureDraw how{.longest_bag = draw.chance(.08) ? 0 : draw.integer(1, 6),
                          .is_weighted = shape.is_weighted,
                          .id_dtype = draw.chance(.5) ? at::kLong : at::kInt,
                          .weight_dtype = draw.chance(.5) ? at::kFloat : at::kDouble};
    auto ids = random_features(draw, features, rows_of_feature, batch, how);
    if (std::min(rows_of_feature[0], rows_of_feature[1]) > 2048 && draw.chance(.7))
      ids.values().bitwise_and_(~2046);                                    // few rows, alike in their low bits
    if (shape.is_weighted && ids.values().numel() > 0 && draw.chance(.2))  // a bag whose weights are all zero
      ids.weights().narrow(0, 0, std::max<std::int64_t>(1, ids.lengths().max().item<std::int64_t>())).zero_();
    if (shape.weights_need_gradient) ids.weights().set_requires_grad(true);
    shape.batches.push_back({ids, draw.tensor({batch, width}, at::kFloat).to(compute_dtype(shape.configs[0].data_type))});
  }
  shape.ranks = draw.chance(.15) ? static_cast<int>(draw.integer(1, 3)) : 0;
  return shape;
}

std::string describe(std::uint64_t seed, const Shape& shape) {
  auto text =
      concat("shape ", seed, ", ", shape.batches.size(), " steps on ", shape.ranks, " ranks", shape.is_weighted ? ", weighted" : "");
  for (const auto& config : shape.configs)
    text += concat(", ", config.name, " [", config.num_embeddings, ", ", config.embedding_dim, "] ", c10::toString(config.data_type), " ",
                   to_string(config.pooling), " ", config.optimizer.name());
  return text;
}

/// What a lookup gives: pooled values, and the gradient of each sample weight.
struct Pooled {
  at::Tensor values;       // [B, width]
  Vector weight_gradient;  // [N]
};

/// Looks every feature of every table up and adds the gradients to the tables' rows.
Pooled look_up(std::vector<ReferenceTable>& tables, const PooledBatch& batch, bool is_weighted, std::map<std::string, int>& seen) {
  const auto& features = batch.features;
  const auto gradient = as_double(batch.gradient), weights = is_weighted ? as_double(features.weights()) : at::Tensor{};
  const auto ids = features.values().to(at::kLong), offsets = features.offsets().to(at::kLong);
  Pooled pooled{at::zeros(gradient.sizes(), at::kDouble), Vector(static_cast<std::size_t>(ids.numel()))};
  std::int64_t column = 0;
  for (auto& table : tables)
    for (const auto& name : table.config.feature_names) {
      for (std::int64_t b = 0; b < features.stride(); ++b) {
        const auto* offset =
            offsets.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(features.index_of(name)) * features.stride() + b;
        const std::vector<std::int64_t> bag_ids(ids.const_data_ptr<std::int64_t>() + offset[0],
                                                ids.const_data_ptr<std::int64_t>() + offset[1]);
        Vector bag_weights(bag_ids.size(), 1);
        if (is_weighted) std::copy_n(weights.const_data_ptr<double>() + offset[0], bag_ids.size(), bag_weights.begin());
        const auto at = b * gradient.size(1) + column;
        const auto by_weight =
            table.bag(bag_ids, bag_weights, gradient.const_data_ptr<double>() + at, pooled.values.mutable_data_ptr<double>() + at);
        for (std::size_t i = 0; i < by_weight.size(); ++i) pooled.weight_gradient[static_cast<std::size_t>(offset[0]) + i] += by_weight[i];
        seen["empty bag"] += bag_ids.empty();
        seen["duplicate"] += std::set(bag_ids.begin(), bag_ids.end()).size() < bag_ids.size();
      }
      column += table.config.embedding_dim;
    }
  seen["no rows"] += features.stride() == 0;
  seen["no ids"] += features.stride() > 0 && ids.numel() == 0;
  seen["rows beyond 2,048"] += ids.numel() > 0 && ids.max().item<std::int64_t>() >= 2048;
  seen["int32"] += features.values().scalar_type() == at::kInt;
  return pooled;
}

/// What differs from the reference by more than the tolerance; empty when nothing does.
std::string compare(const Shape& shape, std::map<std::string, int>& seen) {
  const auto dtype = compute_dtype(shape.configs[0].data_type);
  const auto trained = train_tables(Tables(shape.configs, {.is_weighted = shape.is_weighted}), shape.batches, shape.ranks);
  std::vector<ReferenceTable> tables;
  for (std::size_t t = 0; t < shape.configs.size(); ++t) tables.emplace_back(shape.configs[t], trained.tables[0][t].weight);
  std::string wrong;
  for (std::size_t step = 0; step < shape.batches.size(); ++step) {
    const auto require = [&](const std::string& what, double gap, double allowed) {
      if (!(gap <= allowed)) wrong += concat("\n  step ", step + 1, ", ", what, " differ by ", gap, ", allowed ", allowed);
    };
    const auto& batch = shape.batches[step];
    const auto pooled = look_up(tables, batch, shape.is_weighted, seen);
    require("pooled values", difference(trained.pooled[step], pooled.values), tolerance(dtype, "sgd", static_cast<int>(step) + 1));
    if (shape.weights_need_gradient && !pooled.weight_gradient.empty()) {
      double largest = 0;
      for (const auto& table : tables) largest = std::max(largest, table.largest_term);
      const auto& found = batch.features.weights().grad();
      const double gap = found.to(at::kDouble).sub(at::tensor(pooled.weight_gradient, at::kDouble)).abs().max().item<double>();
      const bool coarse = dtype == at::kFloat || found.scalar_type() == at::kFloat;
      require("gradients of sample weights", gap,
              tolerance(coarse ? at::kFloat : at::kDouble) * std::max(largest, found.abs().max().item<double>()));
    }
    double squares = 0;
    for (const auto& table : tables)
      for (const auto& [id, g] : table.gradient) squares += table.learns() ? dot(g, g) : 0;
    require("gradient norms", std::abs(trained.gradient_norms[step] - std::sqrt(squares)), tolerance(dtype) * std::sqrt(squares));
    for (std::size_t t = 0; t < tables.size(); ++t) {
      auto& table = tables[t];
      const auto& found = trained.tables[step + 1][t];
      const auto rule = table.config.optimizer.name();
      const auto weights = table.config.data_type;
      const auto what = concat(table.config.name, " ", rule, " ");
      const double allowed = tolerance(dtype, rule, static_cast<int>(step) + 1);
      if (!table.gradient.empty()) seen[concat(rule, " ", c10::toString(weights))]++;
      table.update(static_cast<double>(step) + 1);
      if (weights == dtype) {
        require(what + "weights", difference(found.weight, table.weight), allowed);
      } else {
        require(what + "weights", difference_of_rounded(found.weight, table.weight, table.config.stochastic_rounding), allowed);
        table.weight = as_double(found.weight);  // the next step starts at rounded weights
      }
      require(what + "number of states", std::abs(static_cast<double>(found.slots.size()) - static_cast<double>(table.state.size())), 0);
      for (std::size_t slot = 0; slot < found.slots.size(); ++slot)
        require(what + found.slots[slot], difference(found.state[slot], table.state.at(found.slots[slot])), allowed);
      seen["frozen"] += table.config.frozen;
      seen["rounded to the nearest"] += weights != dtype && !table.config.stochastic_rounding;
      seen["rounded stochastically"] += weights != dtype && table.config.stochastic_rounding;
    }
    seen["later step"] += step > 0;
  }
  seen[shape.ranks == 0 ? "local" : "threads"]++;
  const bool mean = shape.configs[0].pooling == PoolingType::mean;
  seen[mean && shape.is_weighted ? "weighted mean" : mean ? "mean" : shape.is_weighted ? "weighted sum" : "sum"]++;
  seen["weights with gradient"] += shape.weights_need_gradient;
  seen["shared feature"] += shape.configs.size() > 1;
  return wrong;
}

}  // namespace

TEST_SUITE("embedding/differential") {
  TEST_CASE("lookup, gradients and every rule on every dtype agree with a float64 reference on 2,000 random shapes") {
    std::map<std::string, int> seen;
    std::set<std::int64_t> widths;
    std::set<std::string> rules;
    std::string wrong;
    int failures = 0;
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
      CAPTURE(seed);
      const auto shape = draw_shape(seed);
      widths.insert(shape.configs[0].embedding_dim);
      rules.emplace(shape.configs[0].optimizer.name());
      const auto differences = compare(shape, seen);
      if (!differences.empty() && ++failures <= 5) wrong += concat(describe(seed, shape), differences, "\n");
    }
    INFO(wrong);
    CHECK(failures == 0);
    CHECK(widths.size() == 257);
    CHECK(rules.size() == library_rules);
    std::vector<std::string> kinds{"empty bag",
                                   "duplicate",
                                   "no rows",
                                   "no ids",
                                   "rows beyond 2,048",
                                   "int32",
                                   "local",
                                   "threads",
                                   "sum",
                                   "mean",
                                   "weighted sum",
                                   "weighted mean",
                                   "weights with gradient",
                                   "shared feature",
                                   "frozen",
                                   "rounded to the nearest",
                                   "rounded stochastically",
                                   "later step"};
    for (const auto& rule : rules)
      for (const auto dtype : table_dtypes) kinds.push_back(concat(rule, " ", c10::toString(dtype)));
    for (const auto& kind : kinds) {
      CAPTURE(kind);
      CHECK(seen[kind] >= 20);
    }
  }
}

}  // namespace rookery
