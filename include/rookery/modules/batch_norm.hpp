// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// BatchNorm: each column to mean 0 and variance 1 over the global batch.
//
// Ioffe, Szegedy 2015, arXiv 1502.03167. Answers to torch.nn.BatchNorm1d on one rank and to SyncBatchNorm on several; differs: no
// collective inside backward, and ranks may have batches of different sizes, or empty ones.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <optional>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/pass.hpp>

namespace rookery {

struct BatchNormOptions {
  double eps = 1e-5;                 // added to the variance
  double momentum = 0.1;             // weight of a batch in the running statistics
  bool affine = true;                // scale and shift are trained; there are none otherwise
};

/// (x - mean) / sqrt(variance + eps) * weight + bias. In training, mean and variance are those of all ranks' rows, and the running
/// statistics move towards them; in evaluation and `predict` they are the running ones. The result, the gradients and the running
/// statistics are those of one process on the global batch. Several passes of one step are several batches.
/// That is BufferPolicy::synchronised, the default of ShardingOptions. Under `broadcast` and `local` each rank's batch is one of its own,
/// as torch.nn.BatchNorm1d has it under DDP, and nothing is sent here.
///
/// A global batch of one row or none has no variance: the running statistics stay as they were.
/// Shapes:  [B, features] -> the same; B may be 0.
/// Errors:  ShapeError for another shape; ConfigError before placement.
/// Cost:    torch's own kernels in evaluation and on one process; two all-reduces of `features` numbers in a training pass on several, two
///          more in step().
/// Ranks:   all, in training, as often on each. On several ranks backward goes past the module only in step(): gradients of what lies
///          below it are not there before, and what is added to the loss goes into the Loss.
struct BatchNorm {
  BatchNorm() = default;
  explicit BatchNorm(std::int64_t columns, BatchNormOptions options = {}, at::ScalarType dtype = at::kFloat)
      : running_mean({columns}, dtype), running_var({columns}, dtype), features(columns), eps(options.eps), momentum(options.momentum) {
    check<ConfigError>(features > 0 && eps >= 0 && momentum >= 0 && momentum <= 1, "BatchNorm: ", features, " features, eps ", eps,
                       ", momentum ", momentum, "; features must be positive, eps not negative and momentum in [0, 1]");
    running_var.assign(ops::ones({features}));
    if (!options.affine) return;
    weight.emplace({features}, Zeros{}, 0, dtype);
    weight->assign(ops::ones({features}));
    bias.emplace({features}, Zeros{}, 0, dtype);
  }
  static constexpr auto members() {
    return rookery::members("weight", &BatchNorm::weight, "bias", &BatchNorm::bias, "running_mean", &BatchNorm::running_mean,
                            "running_var", &BatchNorm::running_var, "pass", &BatchNorm::pass);
  }

  at::Tensor operator()(const at::Tensor& input) const {
    check<ShapeError>(input.dim() == 2 && input.size(1) == features, "BatchNorm: an input of shape ", input.sizes(), "; it must be [B, ",
                      features, "]");
    const bool training = pass.is_training();
    const bool all_ranks = pass.is_synchronised();
    if (!training || (!all_ranks && input.size(0) > 1)) return by_torch(input, training);
    const auto sum = [&](const at::Tensor& own) { return all_ranks ? pass.sum_over_ranks(own) : own; };
    const auto x = all_ranks ? pass.cut(input) : input;                                      // [B, features]
    const auto sums = sum(ops::cat({x.sum(0), ops::full({1}, x.size(0), x.options())}));     // [features + 1]
    const auto rows = sums[features].detach().clamp_min(1);                                  // [] of the global batch
    const auto mean = sums.narrow(0, 0, features).div(rows);                                 // [features]
    const auto centred = x.sub(mean);                                                        // [B, features]
    const auto squares = sum(centred.square().sum(0));                                       // [features]
    remember(mean.detach(), squares.detach(), rows);
    const auto scale = squares.div(rows).add(eps).rsqrt();                                   // [features]
    return weight ? bias->tensor().addcmul(centred, scale.mul(weight->tensor())) : centred.mul(scale);   // [B, features]
  }

  std::optional<Parameter> weight, bias;                                                     // [features]
  Buffer running_mean, running_var;                                                          // [features]
  Pass pass;
  std::int64_t features = 0;
  double eps = 1e-5, momentum = 0.1;

 private:
  /// With the running statistics, or those of these rows alone.
  at::Tensor by_torch(const at::Tensor& x, bool training) const {
    const auto w = weight ? weight->tensor() : at::Tensor{}, b = bias ? bias->tensor() : at::Tensor{};
    return ops::batch_norm(x, w, b, running_mean.tensor(), running_var.tensor(), training, momentum, eps, /*cudnn_enabled=*/false);
  }
  /// Moves the running statistics towards a batch; the variance kept is the unbiased one, as in torch.
  void remember(const at::Tensor& mean, const at::Tensor& squares, const at::Tensor& rows) const {
    const at::NoGradGuard no_grad;
    const auto share = rows.gt(1).to(mean.scalar_type()).mul(momentum);                      // []
    running_mean.tensor().lerp_(mean, share);
    running_var.tensor().lerp_(squares.div(rows.sub(1).clamp_min(1)), share);
  }
};

}  // namespace rookery
