// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Dropout: zeros a share of the elements in training, and scales the others up.
//
// Srivastava et al. 2014. Answers to torch.nn.Dropout; differs: torch's generator is not used, and a row of the global batch loses the
// same elements whatever rank it is on.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <rookery/core/dtype.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/pass.hpp>

namespace rookery {

/// x with each element 0 with the given probability, else divided by one less it; x itself in evaluation and `predict`.
///
/// Whether an element goes is a function of the model's seed, the module's name, how often it was called in training, and the element's
/// place in the global batch; of nothing else. The count of calls is a buffer, so that a model that is loaded goes on with other numbers.
/// Shapes:  [B, ..] -> the same, where B is the batch's rows or a multiple; B may be 0.
/// Errors:  ShapeError for rows that are no multiple of the batch's; ConfigError before placement.
/// Cost:    a pass over x for the mask and one to apply it; on several ranks one all-reduce of W numbers a training pass, shared by all.
/// Ranks:   all, in training, as often on each.
struct Dropout {
  Dropout() = default;
  explicit Dropout(double probability_of_zero) : probability(probability_of_zero) {
    check<ConfigError>(probability >= 0 && probability < 1, "Dropout: probability ", probability, "; it must be in [0, 1)");
  }
  static constexpr auto members() { return rookery::members("calls", &Dropout::calls, "pass", &Dropout::pass); }

  at::Tensor operator()(const at::Tensor& x) const {
    if (!pass.is_training() || probability == 0) return x;
    check<ShapeError>(x.dim() > 0, "Dropout: the input has no rows");
    const auto call = static_cast<std::uint64_t>(calls.tensor().item<std::int64_t>());
    calls.tensor().add_(1);
    const auto columns = x.size(0) == 0 ? 0 : x.numel() / x.size(0), first = pass.first_row(x.size(0)) * columns;
    const auto stream = mix64(pass.key() + mix64(call));
    auto mask = ops::empty(x.sizes(), x.scalar_type());                                      // [B, ..], on the host
    for_floating(x.scalar_type(), [&](auto zero) {
      using Number = decltype(zero);
      const auto kept = static_cast<Number>(1 / (1 - probability));
      auto* out = mask.mutable_data_ptr<Number>();
      parallel(mask.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) {                   // splitmix64, which can be asked for any of its numbers
          const auto bits = mix64(stream + static_cast<std::uint64_t>(first + i) * 0x9e3779b97f4a7c15ULL);
          out[i] = static_cast<double>(bits >> 11) * 0x1p-53 < probability ? Number{0} : kept;
        }
      });
    });
    return x.mul(mask.to(x.device()));                                                       // [B, ..]
  }

  double probability = 0.5;
  Buffer calls = Buffer::of_host({1}, at::kLong);                                            // in training
  Pass pass;
};

}  // namespace rookery
