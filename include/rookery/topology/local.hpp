// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Local: one process, one rank, no collective compiled in; on the host, or on a GPU.  Include cost: c10 device only.

#include <c10/core/Device.h>

#include <cstdint>
#include <string_view>

#include <rookery/topology/cuda.hpp>

namespace rookery {

/// The topology of one process: the default, and what every sharded run is measured against.
///
///   rk::Local on_host, on_gpu{at::kCUDA};
///
/// Errors:  those of cuda_device, for a GPU.
class Local {
 public:
  static constexpr bool is_distributed = false;
  static constexpr std::string_view name = "local";

  Local() = default;
  explicit Local(c10::Device device) : device_(ready_device(device)) {}

  int rank() const { return 0; }
  int world_size() const { return 1; }
  c10::Device device() const { return device_; }
  /// Tells error messages which step this thread is at.
  static void at_step(std::int64_t step) { step_ = step; }
  static std::int64_t step() { return step_; }

 private:
  static inline thread_local std::int64_t step_ = 0;
  c10::Device device_{c10::DeviceType::CPU};
};

}  // namespace rookery
