// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// merged: a metric, or a whole suite, over all ranks.
//
// Answers to the sync of torchmetrics and torchrec/metrics: what travels is state, in one all-gather, so the value is that of
// one process which saw every row, however unevenly the rows were spread.  Include cost: tensor.

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/concepts/metric.hpp>

namespace rookery {

/// The metric over the rows of all ranks, merged in rank order: the same bits on every rank. `metric` stays as it is, so that it
/// can go on counting.
///
/// Errors: CommunicationError as in all_gather_v.
/// Cost:   one all_gather_v of the packed state; for Local nothing but a copy of the state.
/// Ranks:  all, in the same order.
template <concepts::Mergeable Metric, concepts::Topology Topology> Metric merged(const Metric& metric, Topology& topology) {
  const auto states = all_gather_v(topology, metric.pack()).wait();                // W times [n_r]
  Metric whole = metric;                                                           // for its options
  whole.reset();
  for (const auto& state : states) whole.merge(state);
  return whole;
}

}  // namespace rookery
