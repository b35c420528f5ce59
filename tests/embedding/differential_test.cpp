// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Lookup, gradient and every rule against a plain float64 reference, on random shapes.
#include <rookery/embedding/embedding_bag_collection.hpp>

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/random_batches.hpp"
#include "support/test.hpp"
#include "support/tolerances.hpp"

namespace rookery {

using namespace cases;

namespace {

using Matrix = std::vector<std::vector<double>>;

Matrix matrix_of(const at::Tensor& tensor) {
  const auto values = tensor.detach().to(at::kDouble).contiguous();
  Matrix matrix(static_cast<std::size_t>(values.size(0)), std::vector<double>(static_cast<std::size_t>(values.size(1))));
  const auto* from = values.const_data_ptr<double>();
  for (auto& row : matrix)
    for (auto& value : row) value = *from++;
  return matrix;
}
at::Tensor tensor_of(const Matrix& matrix, std::int64_t columns) {
  auto values = at::empty({static_cast<std::int64_t>(matrix.size()), columns}, at::kDouble);
  auto* to = values.mutable_data_ptr<double>();
  for (const auto& row : matrix)
    for (const double value : row) *to++ = value;
  return values;
}

/// One table as ten lines of math see it.
struct ReferenceTable {
  Config config;
  Matrix weight;
  std::vector<Matrix> state;  // of full width; a row slot in column 0
  std::map<std::int64_t, std::vector<double>> gradient;
  double largest_term = 0;  // of the gradients of weights, which cancel to nothing where a mean is of one row

  /// Pools a bag into `out`, adds to the gradient of its rows, and gives the gradient of each of its weights.
  std::vector<double> bag(const std::vector<std::int64_t>& ids, const std::vector<double>& weights, const double* out_gradient,
                          double* out) {
    double divisor = 0;
    for (const double w : weights) divisor += w;
    if (config.pooling == PoolingType::sum) divisor = 1;
    const auto dim = static_cast<std::size_t>(config.embedding_dim);
    std::vector<double> by_weight(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      auto& sum = gradient.try_emplace(ids[i], dim).first->second;
      for (std::size_t d = 0; d < dim && divisor != 0; ++d) {
        out[d] += weights[i] * weight[static_cast<std::size_t>(ids[i])][d] / divisor;
        sum[d] += weights[i] * out_gradient[d] / divisor;
      }
    }
    for (std::size_t i = 0; i < ids.size() && divisor != 0; ++i)
      for (std::size_t d = 0; d < dim; ++d) {
        const double value = weight[static_cast<std::size_t>(ids[i])][d];
        by_weight[i] += out_gradient[d] * (value - (config.pooling == PoolingType::mean ? out[d] : 0)) / divisor;
        largest_term = std::max(largest_term, std::abs(out_gradient[d] * value / divisor));
      }
    return by_weight;
  }

  void update(double step) {
    for (const auto& [id, g] : gradient) {
      const auto row = static_cast<std::size_t>(id);
      auto& w = weight[row];
      config.optimizer.visit([&]<class Rule>(const Rule& rule) {
        double mean_square = 0;
        for (const double x : g) mean_square += x * x / static_cast<double>(g.size());
        if constexpr (std::is_same_v<Rule, RowwiseAdagrad>) state[0][row][0] += mean_square;
        for (std::size_t d = 0; d < g.size(); ++d) {
          if constexpr (std::is_same_v<Rule, Sgd>) w[d] -= rule.learning_rate * g[d];
          if constexpr (std::is_same_v<Rule, RowwiseAdagrad>) w[d] -= rule.learning_rate * g[d] / (std::sqrt(state[0][row][0]) + rule.eps);
          if constexpr (std::is_same_v<Rule, Adagrad>) {
            state[0][row][d] += g[d] * g[d];
            w[d] -= rule.learning_rate * g[d] / (std::sqrt(state[0][row][d]) + rule.eps);
          }
          if constexpr (std::is_same_v<Rule, Adam>) {
            auto &m = state[0][row][d], &v = state[1][row][d];
            m = rule.beta1 * m + (1 - rule.beta1) * g[d];
            v = rule.beta2 * v + (1 - rule.beta2) * g[d] * g[d];
            w[d] -=
                rule.learning_rate * (m / (1 - std::pow(rule.beta1, step))) / (std::sqrt(v / (1 - std::pow(rule.beta2, step))) + rule.eps);
          }
        }
      });
    }
    gradient.clear();
  }
};

struct Shape {
  std::vector<Config> configs;
  bool is_weighted = false, weights_need_gradient = false;
  std::vector<PooledBatch> batches;
  int ranks = 0;
  std::string description;
};

Shape draw_shape(std::uint64_t seed) {
  Draw draw(seed);
  Shape shape;
  const auto dtype = draw.chance(.5) ? at::kFloat : at::kDouble;
  const auto tables = draw.integer(1, 3);
  std::vector<std::string> features{"a", "b"};
  std::vector<std::int64_t> rows_of_feature{INT64_MAX, INT64_MAX};
  for (std::int64_t t = 0; t < tables; ++t) {
    const auto rows = draw.chance(.3) ? draw.integer(1, 4) : draw.chance(.1) ? draw.integer(2000, 5000) : draw.integer(5, 60);
    const auto dim = t == 0 ? 1 + static_cast<std::int64_t>(seed % 257) : draw.integer(1, 9);
    const std::vector<std::vector<std::string>> choices{{"a"}, {"b"}, {"a", "b"}};
    const auto names = t == 0 ? choices[2] : draw.one_of(choices);
    const double rate = draw.real(.01, .1);
    const std::vector<RuleChoice<EveryRule>> rules{Sgd{rate}, Adagrad{rate, 1e-3}, RowwiseAdagrad{rate, 1e-3}, Adam{rate, .9, .99, 1e-3}};
    shape.configs.push_back({.name = concat("t", t),
                             .num_embeddings = rows,
                             .embedding_dim = dim,
                             .feature_names = names,
                             .pooling = draw.chance(.5) ? PoolingType::sum : PoolingType::mean,
                             .data_type = dtype,
                             .initial = Uniform{.5},
                             .optimizer = draw.one_of(rules)});
    for (const auto& name : names) {
      auto& least = rows_of_feature[name == "b"];
      least = std::min(least, rows);
    }
  }
  std::int64_t width = 0;
  for (const auto& config : shape.configs) width += config.embedding_dim * static_cast<std::int64_t>(config.feature_names.size());
  shape.is_weighted = draw.chance(.5);
  shape.weights_need_gradient = shape.is_weighted && draw.chance(.5);
  for (int step = 0; step < 2; ++step) {
    const auto batch = draw.chance(.08) ? 0 : draw.chance(.06) ? draw.integer(100, 200) : draw.integer(1, 8);
    const FeatureDraw how{.longest_bag = draw.chance(.08) ? 0 : draw.integer(1, 6),
                          .is_weighted = shape.is_weighted,
                          .id_dtype = draw.chance(.5) ? at::kLong : at::kInt,
                          .weight_dtype = draw.chance(.5) ? at::kFloat : at::kDouble};
    auto ids = random_features(draw, features, rows_of_feature, batch, how);
    if (shape.is_weighted && ids.values().numel() > 0 && draw.chance(.2))  // a bag whose weights are all zero
      ids.weights().narrow(0, 0, std::max<std::int64_t>(1, ids.lengths().max().item<std::int64_t>())).zero_();
    if (shape.weights_need_gradient) ids.weights().set_requires_grad(true);
    shape.batches.push_back({ids, draw.tensor({batch, width}, at::kFloat).to(dtype)});
  }
  shape.ranks = draw.chance(.25) ? static_cast<int>(draw.integer(1, 3)) : 0;
  return shape;
}

/// What differs from the reference by more than the tolerance; empty when nothing does.
std::string compare(const Shape& shape, std::map<std::string, int>& seen) {
  const auto dtype = shape.configs[0].data_type;
  const auto trained = train_tables(Collection(shape.configs, {.is_weighted = shape.is_weighted}), shape.batches, shape.ranks);
  std::vector<ReferenceTable> tables;
  for (std::size_t t = 0; t < shape.configs.size(); ++t) {
    tables.push_back({shape.configs[t], matrix_of(trained.tables[0][t].weight), {}, {}});
    tables.back().state.assign(2, Matrix(tables.back().weight.size(), std::vector<double>(tables.back().weight[0].size())));
  }
  std::string wrong;
  for (std::size_t step = 0; step < shape.batches.size(); ++step) {
    const auto& [features, gradient] = shape.batches[step];
    const auto out_gradient = matrix_of(gradient);
    Matrix out(out_gradient.size(), std::vector<double>(static_cast<std::size_t>(gradient.size(1))));
    std::vector<double> weight_gradient(static_cast<std::size_t>(features.values().numel()));
    const auto ids = features.values().to(at::kLong),
               weights = shape.is_weighted ? features.weights().detach().to(at::kDouble) : at::Tensor{};
    std::size_t column = 0;
    for (auto& table : tables)
      for (const auto& name : table.config.feature_names) {
        for (std::int64_t b = 0; b < features.stride(); ++b) {
          const auto bag = static_cast<std::int64_t>(features.index_of(name)) * features.stride() + b;
          std::vector<std::int64_t> bag_ids;
          std::vector<double> bag_weights;
          const auto begin = features.offsets()[bag].item<std::int64_t>(), end = features.offsets()[bag + 1].item<std::int64_t>();
          for (auto i = begin; i < end; ++i) {
            bag_ids.push_back(ids.const_data_ptr<std::int64_t>()[i]);
            bag_weights.push_back(shape.is_weighted ? weights.const_data_ptr<double>()[i] : 1);
          }
          const auto row = static_cast<std::size_t>(b);
          const auto by_weight = table.bag(bag_ids, bag_weights, out_gradient[row].data() + column, out[row].data() + column);
          for (std::size_t i = 0; i < by_weight.size(); ++i) weight_gradient[static_cast<std::size_t>(begin) + i] += by_weight[i];
          seen["empty bag"] += bag_ids.empty();
          seen["duplicate"] += std::set(bag_ids.begin(), bag_ids.end()).size() < bag_ids.size();
        }
        column += static_cast<std::size_t>(table.config.embedding_dim);
      }
    const auto expect = [&](const std::string& what, const at::Tensor& found, const at::Tensor& expected, std::string_view rule = "sgd") {
      const double gap = difference(found, expected), allowed = tolerance(dtype, rule, static_cast<int>(step) + 1);
      if (!(gap <= allowed)) wrong += concat("step ", step, " ", what, " differs by ", gap, ", allowed ", allowed, "; ");
    };
    expect("pooled values", trained.pooled[step], tensor_of(out, gradient.size(1)));
    if (shape.weights_need_gradient && !weight_gradient.empty()) {
      double largest = 0;
      for (const auto& table : tables) largest = std::max(largest, table.largest_term);
      const auto& found = features.weights().grad();
      const double gap = found.to(at::kDouble).sub(at::tensor(weight_gradient, at::kDouble)).abs().max().item<double>();
      const bool coarse = dtype == at::kFloat || found.scalar_type() == at::kFloat;
      if (!(gap <= tolerance(coarse ? at::kFloat : at::kDouble) * std::max(largest, found.abs().max().item<double>())))
        wrong += concat("step ", step, " gradient of sample weights differs by ", gap, "; ");
    }
    double squares = 0;
    for (const auto& table : tables)
      for (const auto& [id, g] : table.gradient)
        for (const double x : g) squares += x * x;
    if (std::abs(trained.gradient_norms[step] - std::sqrt(squares)) > tolerance(dtype) * std::sqrt(squares))
      wrong += concat("step ", step, " gradient norm; ");
    for (std::size_t t = 0; t < tables.size(); ++t) {
      auto& table = tables[t];
      table.update(static_cast<double>(step) + 1);
      const auto& whole = trained.tables[step + 1][t];
      const auto rule = table.config.optimizer.name();
      expect(concat(table.config.name, " ", rule, " weights"), whole.weight, tensor_of(table.weight, table.config.embedding_dim), rule);
      for (std::size_t slot = 0; slot < whole.state.size(); ++slot) {
        auto expected = tensor_of(table.state[slot], table.config.embedding_dim);
        if (whole.state[slot].dim() == 1) expected = expected.select(1, 0);
        expect(concat(table.config.name, " ", rule, " state ", slot), whole.state[slot], expected, rule);
      }
      seen[std::string(rule)]++;
    }
    seen["no rows"] += features.stride() == 0;
    seen["no ids"] += features.stride() > 0 && ids.numel() == 0;
    seen["int32"] += features.values().scalar_type() == at::kInt;
  }
  seen[dtype == at::kFloat ? "float32" : "float64"]++;
  seen[shape.ranks == 0 ? "local" : "threads"]++;
  const bool mean = shape.configs[0].pooling == PoolingType::mean;
  seen[mean && shape.is_weighted ? "weighted mean" : mean ? "mean" : shape.is_weighted ? "weighted sum" : "sum"]++;
  seen["weights with gradient"] += shape.weights_need_gradient;
  seen["shared feature"] += shape.configs.size() > 1;
  return wrong;
}

}  // namespace

TEST_SUITE("embedding/differential") {
  TEST_CASE("lookup, gradients and every rule agree with a float64 reference on 1,000 random shapes") {
    std::map<std::string, int> seen;
    std::set<std::int64_t> widths;
    std::string wrong;
    int failures = 0;
    for (std::uint64_t seed = 0; seed < 1000; ++seed) {
      const auto shape = draw_shape(seed);
      widths.insert(shape.configs[0].embedding_dim);
      const auto differences = compare(shape, seen);
      if (differences.empty() || ++failures > 5) continue;
      wrong += concat("shape ", seed, " on ", shape.ranks, " ranks: ", differences, "\n");
    }
    INFO(wrong);
    CHECK(failures == 0);
    CHECK(widths.size() == 257);
    for (const auto* kind :
         {"empty bag", "duplicate", "sgd", "adagrad", "rowwise_adagrad", "adam", "no rows", "no ids", "int32", "float32", "float64",
          "local", "threads", "sum", "mean", "weighted sum", "weighted mean", "weights with gradient", "shared feature"}) {
      CAPTURE(kind);
      CHECK(seen[kind] >= 20);
    }
  }
}

}  // namespace rookery
