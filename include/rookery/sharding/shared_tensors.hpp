// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Tensors that a model was given rather than declared, such as those of a torch::nn::Module: ranks of one process must not share one,
// or each would add its gradients to the other's.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <sys/random.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery::detail {

/// A number of this process that no other has, on any host: drawn by the first that asks, and another in what it forks.
inline std::int64_t process_identity() {
  static const std::int64_t drawn = [] {
    std::int64_t number = 0;
    [[maybe_unused]] const auto bytes = ::getrandom(&number, sizeof number, 0);
    return number;
  }();
  return drawn ^ ::getpid();
}

/// Errors: ConfigError where two ranks of a process were given one tensor. `gathered` are each rank's addresses, one a name, and its
///         process [names + 1].
inline void refuse_shared_tensors(const std::vector<std::string>& names, const std::vector<at::Tensor>& gathered) {
  for (std::size_t other = 1; other < gathered.size(); ++other)
    for (std::size_t rank = 0; rank < other; ++rank) {
      const auto *a = gathered[rank].const_data_ptr<std::int64_t>(), *b = gathered[other].const_data_ptr<std::int64_t>();
      for (std::size_t i = 0; i < names.size() && a[names.size()] == b[names.size()]; ++i)
        check<ConfigError>(a[i] == 0 || a[i] != b[i], "ShardingPolicy: ranks ", rank, " and ", other, " are given one tensor as '",
                           names[i], "'; make a torch::nn::Module for each rank");
    }
}

}  // namespace rookery::detail
