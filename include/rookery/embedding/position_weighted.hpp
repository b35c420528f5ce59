// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PositionWeighted: a trained weight for each place in a bag, so that the first id of a history may count for more than the last.
//
//   auto lookups(const Clicks& b) const { return rk::lookups(rk::lookup<&Ranker::items>(position(b.ids))); }
//
// Answers to torchrec/modules/feature_processor_.py PositionWeightedModule and its collection.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>

namespace rookery {

/// The longest bag that a feature may have.
struct PositionWeightedConfig {
  std::string feature;
  std::int64_t max_feature_length = 0;
};

/// What a part of a model says to placement: the model's tables have these features.
struct ExpectedFeatures {
  std::vector<std::string> expected_features;
};

/// Gives each id the weight p[its position in its bag], where p is of its feature, trained, and starts at 1; ids of other features get
/// weight 1. Weights that the input has are multiplied by that. The collection that looks the result up is a weighted one.
///
/// Errors:  ConfigError for a length that is not positive or a feature given twice; IndexError for a bag longer than its feature's
///          max_feature_length: no position is cut off, for none says which ids matter; ConfigError before placement, and at placement
///          for a feature that no table of the model has: nothing would train its weights.
/// Cost:    one pass over the ids. Weights with gradients make the collection exchange rows instead of sums.
struct PositionWeighted {
  PositionWeighted() = default;
  explicit PositionWeighted(const std::vector<PositionWeightedConfig>& configs, at::ScalarType type = at::kFloat) : dtype(type) {
    for (const auto& [feature, length] : configs) {
      check<ConfigError>(length > 0, "PositionWeighted: feature '", feature, "' has max_feature_length ", length, "; it must be positive");
      check<ConfigError>(!find(feature), "PositionWeighted: feature '", feature, "' is given twice");
      Parameter weights({length}, Zeros{}, 0, dtype);
      weights.assign(ops::ones({length}));
      position_weights.push_back({feature, std::move(weights)});
      features_.expected_features.push_back(feature);
    }
  }
  static constexpr auto members() {
    return rookery::members("position_weights", &PositionWeighted::position_weights, "", &PositionWeighted::features_);
  }

  KeyedJaggedTensor operator()(const KeyedJaggedTensor& ids) const {
    auto where = at::TensorOptions(dtype);
    if (!position_weights.empty()) where = where.device(position_weights.front().value.tensor().device());
    std::vector<at::Tensor> weights{ops::empty({0}, where)};
    for (std::size_t f = 0; f < ids.keys().size(); ++f) {
      const auto bags = ids.feature(f);
      const auto* p = find(ids.keys()[f]);
      weights.push_back(p ? p->tensor().index_select(0, positions(ids.keys()[f], bags, p->numel()).to(p->tensor().device()))
                          : ops::ones({bags.values().numel()}, where));                      // [ids of the feature]
    }
    auto all = ops::cat(weights);                                                            // [N]
    if (ids.is_weighted()) all = all.mul(ids.weights().to(where.device()));                  // [N]
    return ids.with_bags(ids.values(), ids.lengths(), std::move(all));
  }

  std::vector<Named<Parameter>> position_weights;                                            // [max_feature_length] each
  at::ScalarType dtype = at::kFloat;

 private:
  const Parameter* find(const std::string& feature) const {
    const auto found =
        std::find_if(position_weights.begin(), position_weights.end(), [&](const Named<Parameter>& one) { return one.name == feature; });
    return found == position_weights.end() ? nullptr : &found->value;
  }
  /// 0, 1, .. in each bag -> [ids of the feature].
  static at::Tensor positions(const std::string& feature, const JaggedTensor& bags, std::int64_t longest) {
    auto found = ops::empty({bags.values().numel()}, at::kLong);
    auto* out = found.mutable_data_ptr<std::int64_t>();
    const auto* lengths = bags.lengths().const_data_ptr<std::int64_t>();
    for (std::int64_t row = 0; row < bags.size(); ++row) {
      check<IndexError>(lengths[row] <= longest, "PositionWeighted: feature '", feature, "' has ", lengths[row], " ids in row ", row,
                        "; its max_feature_length is ", longest);
      for (std::int64_t i = 0; i < lengths[row]; ++i) *out++ = i;
    }
    return found;
  }

  ExpectedFeatures features_;
};

}  // namespace rookery
