// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LogisticRegression: a bias and one weight an id.
//
// Answers to the wide part of torchrec users' wide-and-deep models, with tables of one column.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/models/logits.hpp>

namespace rookery {

/// A batch has `ids`, a KeyedJaggedTensor; its dense features are not used.
///
/// Errors: ConfigError for a table of more than one column.
template <class Set> struct LogisticRegression {
  LogisticRegression() = default;
  explicit LogisticRegression(std::vector<EmbeddingBagConfig<Set>> configs, at::ScalarType dtype = at::kFloat)
      : tables(std::move(configs)), bias({1}, Zeros{}, 0, dtype) {
    for (const auto& table : tables.configs())
      check<ConfigError>(table.embedding_dim == 1, "LogisticRegression: table '", table.name, "' has ", table.embedding_dim,
                         " columns; it must have 1");
  }
  static constexpr auto members() { return rookery::members("tables", &LogisticRegression::tables, "bias", &LogisticRegression::bias); }

  auto lookups(const auto& batch) const { return rookery::lookups(rookery::lookup<&LogisticRegression::tables>(batch.ids)); }

  Logits forward(const auto&, const auto& pooled) {
    return {get<&LogisticRegression::tables>(pooled).values().sum(1).add(bias.tensor())};    // [B]
  }

  EmbeddingBagCollection<Set> tables;                                                        // D = 1
  Parameter bias;                                                                            // [1]
};

}  // namespace rookery
