// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// dot_interaction: every vector of a row against every other.
//
// On the host a kernel of ours computes it, forward and backward, and two hooks join it to the graph: one takes the gradient of the
// products, one gives that of the vectors. Elsewhere, and where gradients are to be differentiated, it is a batched product.
// Naumov et al. 2019, arXiv 1906.00091. Answers to torchrec/models/dlrm.py InteractionArch.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <memory>
#include <utility>

#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/cpu/pair_products.hpp>

namespace rookery {

namespace detail {

/// Where the products of pairs lie among those of all, [F * (F - 1) / 2].
inline at::Tensor pair_numbers(const at::Tensor& vectors) {
  const auto features = vectors.size(1);
  const auto pairs = ops::triu_indices(features, features, 1, vectors.device());             // [2, F * (F - 1) / 2]
  return pairs[0].mul(features).add(pairs[1]);
}

/// dot_interaction by LibTorch's operators, and what gradients [B, F * (F - 1) / 2] give its vectors.
inline at::Tensor pair_products_of(const at::Tensor& vectors) {
  return vectors.bmm(vectors.transpose(1, 2)).flatten(1).index_select(1, pair_numbers(vectors));   // [B, F * (F - 1) / 2]
}
inline at::Tensor pair_gradients_of(const at::Tensor& vectors, const at::Tensor& gradients) {
  const auto features = vectors.size(1);
  const auto none = ops::zeros({vectors.size(0), features * features}, vectors.options());
  const auto above = none.index_add(1, pair_numbers(vectors), gradients).view({-1, features, features});   // [B, F, F]
  return above.add(above.transpose(1, 2)).bmm(vectors);                                      // [B, F, D]
}

/// The same by our kernel, of contiguous vectors [B, F, D] on the host: products, or with `gradients` what these give.
inline at::Tensor pairs_on_host(const at::Tensor& vectors, const at::Tensor& gradients = {}) {
  at::Tensor found;
  for_floating(vectors.scalar_type(), [&](auto zero) {
    using Number = decltype(zero);
    const kernels::VectorRows<Number> rows{vectors.const_data_ptr<Number>(), vectors.size(0), vectors.size(1), vectors.size(2)};
    if (gradients.defined()) {
      found = ops::empty(vectors.sizes(), vectors.options());                                // [B, F, D]
      kernels::pair_gradients(rows, gradients.const_data_ptr<Number>(), found.mutable_data_ptr<Number>());
    } else {
      found = ops::empty({rows.rows, rows.pairs()}, vectors.options());                      // [B, F * (F - 1) / 2]
      kernels::pair_products(rows, found.mutable_data_ptr<Number>());
    }
  });
  return found;
}

}  // namespace detail

/// The dot products of all pairs i < j of F vectors, by row: (0,1), (0,2), .., (1,2), ..
///
/// Shapes:  vectors [B, F, D] -> [B, F * (F - 1) / 2].
/// Errors:  ShapeError when vectors is not of three dimensions; in backward, Error when they were changed in place since.
/// Cost:    on the host one pass over the vectors each way; elsewhere one batched product [B, F, F], of which half is kept.
inline at::Tensor dot_interaction(const at::Tensor& vectors) {
  check<ShapeError>(vectors.dim() == 3, "dot_interaction: vectors of shape ", vectors.sizes(), "; it must be [B, F, D]");
  const auto dtype = vectors.scalar_type();
  if (!vectors.is_cpu() || (dtype != at::kFloat && dtype != at::kDouble)) return detail::pair_products_of(vectors);
  const auto held = vectors.detach().contiguous();                                           // [B, F, D]
  const auto products = detail::pairs_on_host(held);                                         // [B, F * (F - 1) / 2]
  if (!at::GradMode::is_enabled() || !vectors.requires_grad()) return products;
  const auto entry = vectors.view(vectors.sizes());                                          // [B, F, D], its gradient is this use's alone
  products.add_(entry.narrow(0, 0, 0).sum());                                                // 0, through which the graph goes on
  const auto arrived = std::make_shared<at::Tensor>();                                       // [B, F * (F - 1) / 2]
  products.register_hook([arrived](const at::Tensor& gradient) { *arrived = gradient; });
  entry.register_hook([arrived, vectors, held, version = vectors._version()](const at::Tensor&) {
    check<Error>(vectors._version() == version, "dot_interaction: its vectors were changed in place before backward");
    const auto gradients = std::exchange(*arrived, at::Tensor());
    if (at::GradMode::is_enabled()) return detail::pair_gradients_of(vectors, gradients);
    return detail::pairs_on_host(held, gradients.contiguous());                              // [B, F, D]
  });
  return products;
}

}  // namespace rookery
