// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// How far a load is from even over ranks, in the four measures of TorchRec's planner; 0 is even in each.
//
// Answers to torchrec/distributed/planner/stats.py.  Include cost: none.

#include <algorithm>
#include <cmath>
#include <span>

namespace rookery {

/// Distances of a distribution from the even one.
struct Imbalance {
  double total_variation = 0;                                // of the share that is furthest from even
  double total_distance = 0;                                 // of all shares
  double chi_squared = 0;
  double kl_divergence = 0;                                  // in nats
  double normalized_kl = 0;                                  // of what it is when one rank has all
};

/// Of loads that are not negative; all 0 when there is no load.
inline Imbalance imbalance_of(std::span<const double> loads) {
  double sum = 0;
  for (const double load : loads) sum += load;
  Imbalance found;
  if (!(sum > 0)) return found;
  const auto count = static_cast<double>(loads.size());
  for (const double load : loads) {
    const double share = load / sum, distance = std::abs(share - 1 / count);
    found.total_variation = std::max(found.total_variation, distance);
    found.total_distance += distance;
    found.chi_squared += distance * distance * count;
    if (share > 0) found.kl_divergence += share * std::log(share * count);
  }
  if (count > 1) found.normalized_kl = found.kl_divergence / std::log(count);
  return found;
}

}  // namespace rookery
