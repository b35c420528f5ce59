// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// dot_interaction: every vector of a row against every other.
//
// Naumov et al. 2019, arXiv 1906.00091. Answers to torchrec/models/dlrm.py InteractionArch.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

/// The dot products of all pairs i < j of F vectors, by row: (0,1), (0,2), .., (1,2), ..
///
/// Shapes:  vectors [B, F, D] -> [B, F * (F - 1) / 2].
/// Errors:  ShapeError when vectors is not of three dimensions.
/// Cost:    one batched product [B, F, F], half of which is kept.
inline at::Tensor dot_interaction(const at::Tensor& vectors) {
  check<ShapeError>(vectors.dim() == 3, "dot_interaction: vectors of shape ", vectors.sizes(), "; it must be [B, F, D]");
  const auto features = vectors.size(1);
  const auto products = vectors.bmm(vectors.transpose(1, 2)).flatten(1);                // [B, F * F]
  const auto pairs = ops::triu_indices(features, features, 1, vectors.device());             // [2, F * (F - 1) / 2]
  return products.index_select(1, pairs[0].mul(features).add(pairs[1]));                     // [B, F * (F - 1) / 2]
}

}  // namespace rookery
