// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Dlrm: dense features through a bottom MLP, ids through tables, all pairs of their vectors, and an MLP over that.
//
// Naumov et al. 2019, arXiv 1906.00091. Answers to torchrec/models/dlrm.py DLRM.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/models/logits.hpp>
#include <rookery/modules/dot_interaction.hpp>
#include <rookery/modules/mlp.hpp>

namespace rookery {

/// A batch has `dense` [B, dense_features] and `ids`, a KeyedJaggedTensor. Without dense features there is no bottom, and the
/// logit is computed from the pairs of table vectors alone. `gemm` at::kBFloat16 is faster where the processor has it: see LinearOptions.
///
/// Errors: ConfigError when the tables' widths differ from one another or from the bottom's last layer.
template <class Set> struct Dlrm {
  Dlrm() = default;
  Dlrm(std::vector<EmbeddingBagConfig<Set>> configs, std::int64_t dense_features, const std::vector<std::int64_t>& bottom_sizes,
       const std::vector<std::int64_t>& over_sizes, at::ScalarType dtype = at::kFloat, at::ScalarType gemm = at::kFloat)
      : tables(std::move(configs)) {
    check<ConfigError>(!tables.configs().empty(), "Dlrm: no tables");
    dim = tables.configs().front().embedding_dim;
    for (const auto& table : tables.configs())
      check<ConfigError>(table.embedding_dim == dim, "Dlrm: table '", table.name, "' is ", table.embedding_dim, " wide and table '",
                         tables.configs().front().name, "' ", dim, "; all vectors meet in dot products and share one width");
    auto vectors = static_cast<std::int64_t>(tables.features().size());
    if (dense_features > 0) {
      check<ConfigError>(!bottom_sizes.empty() && bottom_sizes.back() == dim, "Dlrm: the bottom ends ",
                         bottom_sizes.empty() ? 0 : bottom_sizes.back(), " wide and the tables are ", dim, " wide");
      bottom = Mlp(dense_features, bottom_sizes, MlpOptions{.final_activation = Activation::relu, .gemm = gemm}, dtype);
      ++vectors;
    }
    check<ConfigError>(!over_sizes.empty() && over_sizes.back() == 1, "Dlrm: the over layers must end with one logit");
    over = Mlp((dense_features > 0 ? dim : 0) + vectors * (vectors - 1) / 2, over_sizes, MlpOptions{.gemm = gemm}, dtype);
  }
  static constexpr auto members() { return rookery::members("tables", &Dlrm::tables, "bottom", &Dlrm::bottom, "over", &Dlrm::over); }

  auto lookups(const auto& batch) const { return rookery::lookups(rookery::lookup<&Dlrm::tables>(batch.ids)); }

  Logits forward(const auto& batch, const auto& pooled) {
    const auto rows = static_cast<std::int64_t>(batch.size()), features = static_cast<std::int64_t>(tables.features().size());
    auto vectors = get<&Dlrm::tables>(pooled).values().view({rows, features, dim});          // [B, F, D]
    if (bottom.layers.empty()) return {over(dot_interaction(vectors)).squeeze(1)};           // [B]
    const auto dense = bottom(batch.dense);                                                  // [B, D]
    vectors = ops::cat({dense.unsqueeze(1), vectors}, 1);                                    // [B, F + 1, D]
    return {over(ops::cat({dense, dot_interaction(vectors)}, 1)).squeeze(1)};                // [B]
  }

  EmbeddingBagCollection<Set> tables;
  Mlp bottom, over;
  std::int64_t dim = 0;
};

}  // namespace rookery
