// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// FactorizationMachine: logistic regression plus the dot products of all pairs of id vectors.
//
// Rendle 2010. Answers to torchrec/modules/deepfm.py FactorizationMachine.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/models/logits.hpp>

namespace rookery {

/// The sum over pairs i < j of <v_i, v_j>, in time linear in F: half of (sum v)^2 - sum v^2.
///
/// Shapes:  vectors [B, F, D] -> [B].
inline at::Tensor pairwise_products(const at::Tensor& vectors) {
  const auto sum = vectors.sum(1);                                                           // [B, D]
  return sum.mul(sum).sub(vectors.mul(vectors).sum(1)).sum(1).mul(0.5);                      // [B]
}

/// A batch has `ids`, a KeyedJaggedTensor; its dense features are not used. The two collections see the same features.
///
/// Errors: ConfigError for a linear table of more than one column, or factor tables of different widths.
template <class Set> struct FactorizationMachine {
  FactorizationMachine() = default;
  FactorizationMachine(std::vector<EmbeddingBagConfig<Set>> linear_configs, std::vector<EmbeddingBagConfig<Set>> factor_configs,
                       at::ScalarType dtype = at::kFloat)
      : linear(std::move(linear_configs)), factors(std::move(factor_configs)), bias({1}, Zeros{}, 0, dtype) {
    for (const auto& table : linear.configs())
      check<ConfigError>(table.embedding_dim == 1, "FactorizationMachine: linear table '", table.name, "' has ", table.embedding_dim,
                         " columns; it must have 1");
    check<ConfigError>(!factors.configs().empty(), "FactorizationMachine: no factor tables");
    dim = factors.configs().front().embedding_dim;
    for (const auto& table : factors.configs())
      check<ConfigError>(table.embedding_dim == dim, "FactorizationMachine: factor table '", table.name, "' has ", table.embedding_dim,
                         " columns and another has ", dim);
  }
  static constexpr auto members() {
    return rookery::members("linear", &FactorizationMachine::linear, "factors", &FactorizationMachine::factors, "bias",
                            &FactorizationMachine::bias);
  }

  auto lookups(const auto& batch) const {
    return rookery::lookups(rookery::lookup<&FactorizationMachine::linear>(batch.ids),
                            rookery::lookup<&FactorizationMachine::factors>(batch.ids));
  }

  Logits forward(const auto& batch, const auto& pooled) {
    return {logits(batch, get<&FactorizationMachine::linear>(pooled).values(), get<&FactorizationMachine::factors>(pooled).values())};
  }

  /// From what was looked up, [B, F] and [B, F * D] -> [B].
  at::Tensor logits(const auto& batch, const at::Tensor& weights, const at::Tensor& vectors) const {
    const auto rows = static_cast<std::int64_t>(batch.size()), features = static_cast<std::int64_t>(factors.features().size());
    return weights.sum(1).add(bias.tensor()).add(pairwise_products(vectors.view({rows, features, dim})));     // [B]
  }

  EmbeddingBagCollection<Set> linear;                                                        // D = 1
  EmbeddingBagCollection<Set> factors;
  Parameter bias;                                                                            // [1]
  std::int64_t dim = 0;
};

}  // namespace rookery
