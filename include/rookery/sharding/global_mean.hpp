// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// global_mean: the loss of the global batch, for logs.
//
// Answers to the-algorithm-ml's get_global_loss_detached; differs: nothing is written over, uneven batches are weighed right.
// Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

/// Sum of `loss` over ranks divided by the sum of its normaliser for `batch`; the sum alone where the loss divides by nothing.
/// NaN when the normaliser is 0.  Cost: one all-reduce of two numbers, one read by the host.  Ranks: all, in the same order.
template <class Model, class Batch> double global_mean(Model& model, const at::Tensor& loss, const Batch& batch) {
  const at::NoGradGuard no_grad;
  if constexpr (Model::divides) {
    const auto sum = loss.detach().to(at::kDouble);                                          // []
    auto both = ops::stack({sum, model.loss().normaliser(batch).to(sum.options())});         // [2]
    both = all_reduce(model.topology(), std::move(both)).wait().cpu();
    return both[0].template item<double>() / both[1].template item<double>();
  } else {
    return all_reduce(model.topology(), loss.detach().to(at::kDouble)).wait().template item<double>();
  }
}

}  // namespace rookery
