// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Upload: numbers of the host on their way to a device, in one copy for all that a pass or a step needs there.
//
// Ids, offsets and factors are worked out on the host; each copy of them costs a device more than its bytes do. Memory is pinned, so that
// nothing waits for the device.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <rookery/core/operators.hpp>

namespace rookery::kernels {

/// Numbers are added, sent once, and then found by what `add` gave.
class Upload {
 public:
  [[gnu::cold]] std::size_t add(std::span<const std::int64_t> numbers) {
    parts_.emplace_back(words_.size(), numbers.size());
    words_.insert(words_.end(), numbers.begin(), numbers.end());
    return parts_.size() - 1;
  }
  [[gnu::cold]] std::size_t add(std::span<const double> numbers) {
    parts_.emplace_back(words_.size(), numbers.size());
    for (const double number : numbers) words_.push_back(std::bit_cast<std::int64_t>(number));
    return parts_.size() - 1;
  }
  /// Copies everything to the device. Cost: one copy from pinned memory, none without numbers.
  [[gnu::cold]] void send(c10::Device device) {
    const auto count = static_cast<std::int64_t>(words_.size());
    if (device.type() == c10::DeviceType::CPU) {
      there_ = ops::empty({count}, at::kLong);                                               // [words]
      std::memcpy(there_.mutable_data_ptr(), words_.data(), words_.size() * sizeof(std::int64_t));
      return;
    }
    if (count == 0) {
      there_ = ops::empty({0}, at::TensorOptions(at::kLong).device(device));                 // [0]
      return;
    }
    const auto host = ops::empty({count}, at::TensorOptions(at::kLong).pinned_memory(true)); // [words]
    std::memcpy(host.mutable_data_ptr(), words_.data(), words_.size() * sizeof(std::int64_t));
    there_ = host.to(device, /*non_blocking=*/true);                                         // [words]
  }
  /// On the device, [n] int64 or float64, as they were added.
  [[gnu::cold]] at::Tensor integers(std::size_t part) const {
    const auto [begin, count] = parts_[part];
    return there_.narrow(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(count));
  }
  [[gnu::cold]] at::Tensor reals(std::size_t part) const { return integers(part).view(at::kDouble); }

 private:
  std::vector<std::int64_t> words_;
  std::vector<std::pair<std::size_t, std::size_t>> parts_;   // begin, count
  at::Tensor there_;
};

}  // namespace rookery::kernels
