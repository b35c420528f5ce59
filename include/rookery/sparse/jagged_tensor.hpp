// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// JaggedTensor: one feature of a batch, a bag of ids per row.
//
// Answers to torchrec/sparse/jagged_tensor.py JaggedTensor. Lengths and offsets live on the host, whatever device holds
// the ids, so that exchanging counts never waits for a device.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <utility>

#include <rookery/core/error.hpp>

namespace rookery {

/// Offsets [n + 1] of the given lengths [n], both int64 on the host.
inline at::Tensor offsets_of(const at::Tensor& lengths) {
  auto offsets = at::empty({lengths.numel() + 1}, at::kLong);                      // [n + 1]
  const auto* from = lengths.const_data_ptr<std::int64_t>();
  auto* to = offsets.mutable_data_ptr<std::int64_t>();
  to[0] = 0;
  for (std::int64_t i = 0; i < lengths.numel(); ++i) to[i + 1] = to[i] + from[i];
  return offsets;
}

/// One feature's bags: the ids of row b are `values[offsets[b] .. offsets[b + 1])`.
///
/// Shapes:  values [N], lengths [B], weights [N] or undefined.
/// Dtypes:  values int64 or int32; lengths int64 on the host; weights float32 or float64.
class JaggedTensor {
 public:
  JaggedTensor() = default;
  JaggedTensor(at::Tensor values, at::Tensor lengths, at::Tensor weights = {})
      : values_(std::move(values)), lengths_(std::move(lengths)), weights_(std::move(weights)) {}

  const at::Tensor& values() const { return values_; }                             // [N]
  const at::Tensor& lengths() const { return lengths_; }                           // [B]
  at::Tensor offsets() const { return offsets_of(lengths_); }                      // [B + 1]
  bool is_weighted() const { return weights_.defined(); }
  const at::Tensor& weights() const {                                              // [N]
    check<ShapeError>(is_weighted(), "JaggedTensor: weights() asked of a feature without weights");
    return weights_;
  }
  std::int64_t size() const { return lengths_.numel(); }

 private:
  at::Tensor values_, lengths_, weights_;
};

}  // namespace rookery
