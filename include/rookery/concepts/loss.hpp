// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Loss: a sum over this rank's rows, and the number that it is to be divided by.
//
// The divisor is summed over ranks before it divides, so the mean is that of the global batch however the batch is cut.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <concepts>

namespace rookery::concepts {

/// Callable as `at::Tensor (const Output&, const Batch&)`, a scalar SUM.
template <class L, class Output, class B>
concept HasSum = requires(const L& loss, const Output& output, const B& batch) {
  { loss(output, batch) } -> std::same_as<at::Tensor>;
};

/// Gives the divisor as `at::Tensor normaliser(const Batch&)`, a scalar, or says `divides = false` for none.
template <class L, class B>
concept HasNormaliser = requires(const L& loss, const B& batch) {
  { loss.normaliser(batch) } -> std::same_as<at::Tensor>;
} || requires { requires !L::divides; };

template <class L, class Output, class B>
concept Loss = HasSum<L, Output, B> && HasNormaliser<L, B>;

}  // namespace rookery::concepts
