// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Lookup on a device by LibTorch's operators: rows are picked, weighted, and summed bag by bag; gradients of a row are summed alike.
//
// Sums are taken in a fixed order, each by one thread and no atomics, in float32 of tables of float16, bfloat16 and float32, and in float64
// of float64. Long ones are taken in the host's blocks, so that they are as exact, and spread over the device.
// Answers to FBGEMM's embedding forward and backward.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/kernels/device/upload.hpp>

namespace rookery::kernels {

/// Which consecutive rows are summed: segment s is [offsets[s], offsets[s + 1]). Offsets begin anywhere; they travel with an Upload.
class Segments {
 public:
  Segments() = default;
  [[gnu::cold]] Segments(Upload& upload, std::span<const std::int64_t> offsets) : count_(static_cast<std::int64_t>(offsets.size()) - 1) {
    constexpr std::int64_t block = 64;                       // as the host's bag_sum.hpp
    std::int64_t longest = 0;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      longest = std::max(longest, offsets[s + 1] - offsets[s]);
      is_each_one_ = is_each_one_ && offsets[s + 1] - offsets[s] == 1;
    }
    if (is_each_one_) return;
    has_blocks_ = longest > block;
    std::vector<std::int64_t> starts, blocks{0};
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
      auto begin = offsets[s];
      do starts.push_back(begin - offsets[0]), begin += block;
      while (has_blocks_ && begin < offsets[s + 1]);
      blocks.push_back(static_cast<std::int64_t>(starts.size()));
    }
    starts.push_back(offsets.back() - offsets[0]);
    starts_ = upload.add(starts);
    if (has_blocks_) blocks_ = upload.add(blocks);
  }

  /// Shapes:  rows [n, D] -> [segments, D]; `rows` itself where each segment is one row.
  [[gnu::cold]] at::Tensor sum(const Upload& upload, const at::Tensor& rows) const {
    if (is_each_one_) return rows;
    if (rows.size(0) == 0) return ops::zeros({count_, rows.size(1)}, rows.options());        // [segments, D]
    const auto sums = ops::segment_sums(rows, upload.integers(starts_));                     // [blocks, D]
    if (!has_blocks_) return sums;
    return ops::segment_sums(sums.to(at::kDouble), upload.integers(blocks_)).to(rows.scalar_type());   // [segments, D]
  }

 private:
  std::int64_t count_ = 0;
  std::size_t starts_ = 0, blocks_ = 0;
  bool is_each_one_ = true, has_blocks_ = false;
};

/// Rows `ids` [n] of `table` [E, D] as `dtype`, times `factors` [n] where these are defined.
[[gnu::cold]] inline at::Tensor picked_rows(const at::Tensor& table, const at::Tensor& ids, const at::Tensor& factors,
                                            at::ScalarType dtype) {
  auto rows = table.index_select(0, ids).to(dtype);                                          // [n, D]
  return factors.defined() ? rows.mul(factors.to(dtype).unsqueeze(1)) : rows;                // [n, D]
}

/// Sums over bags of rows that are picked from a table: ids, factors where there are any, and bags, told to a device.
struct PickedSums {
  std::size_t ids = 0, factors = 0;
  bool has_factors = false;
  Segments bags;

  /// `factors` is empty where there are none.
  [[gnu::cold]] static PickedSums told(Upload& upload, std::span<const std::int64_t> ids, std::span<const double> factors,
                         std::span<const std::int64_t> offsets) {
    PickedSums sums{.ids = upload.add(ids), .factors = 0, .has_factors = !factors.empty(), .bags = Segments(upload, offsets)};
    if (sums.has_factors) sums.factors = upload.add(factors);
    return sums;
  }
  /// Shapes: table [E, D] -> [bags, D] of `dtype`, in which sums are taken.
  [[gnu::cold]] at::Tensor of(const Upload& upload, const at::Tensor& table, at::ScalarType dtype) const {
    return bags.sum(upload, picked_rows(table, upload.integers(ids), has_factors ? upload.reals(factors) : at::Tensor{}, dtype));
  }
};

}  // namespace rookery::kernels
