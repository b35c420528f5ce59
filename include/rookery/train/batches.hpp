// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// batches(topology, source): a loop over a rank's own batches that all ranks leave together, however many each has.
//
//   for (auto& batch : batches(topology, reader.epoch(Part::train), RunOut::drain)) ...
//
// Ranks that read files of their own run out of data at different times, and one that makes a step more than the others waits for
// them until its deadline. TorchRec leaves this to its users.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/data/batches.hpp>
#include <rookery/sparse/batch.hpp>

namespace rookery {

/// What happens when one rank has no batch left: all stop, and what others still had is not used; or those that have run out go on
/// with batches without rows until the last rank has.
enum class RunOut { stop, drain };

/// The batches of `source`, as many on every rank.
///
/// Errors:  ConfigError under `drain` on a rank that never had a batch and was given no empty one.
/// Cost:    one all-reduce of one number a batch; none on one process.
/// Ranks:   all, in the same order: each `next()` of one is a `next()` of all.
template <class Topology, BatchSource Source> class AlignedBatches {
 public:
  using Batch = BatchOf<Source>;

  AlignedBatches(Topology& topology, Source source, RunOut run_out, std::optional<Batch> empty)
      : topology_(&topology), source_(std::move(source)), run_out_(run_out), empty_(std::move(empty)) {}

  /// The next batch, or nothing when all ranks stop.
  std::optional<Batch> next() {
    if (ended_) return {};
    std::optional<Batch> batch;
    if (!out_) batch = source_.next();
    out_ = !batch;
    if constexpr (Topology::is_distributed) {
      const auto op = run_out_ == RunOut::stop ? ReduceOp::min : ReduceOp::max;
      const auto more = all_reduce(*topology_, ops::full({1}, out_ ? 0 : 1, at::kLong), op).wait();  // [1]
      ended_ = more.template item<std::int64_t>() == 0;
      if (ended_) return {};
      if (run_out_ == RunOut::drain && batch && !empty_) empty_ = slice(*batch, 0, 0);
      if (out_) {
        check<ConfigError>(empty_.has_value(), "batches: rank ", topology_->rank(),
                           " never had a batch, so it cannot go on with empty ones; give batches() one without rows");
        return empty_;
      }
    }
    ended_ = out_;
    return batch;
  }

  auto begin() { return NextIterator<AlignedBatches>{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  Topology* topology_;
  Source source_;
  RunOut run_out_;
  std::optional<Batch> empty_;
  bool out_ = false, ended_ = false;
};

/// The batches of `source`, which all ranks leave together. `empty` is a batch without rows for a rank that may never have one.
template <class Topology, BatchSource Source>
AlignedBatches<Topology, Source> batches(Topology& topology, Source source, RunOut run_out = RunOut::stop,
                                         std::optional<BatchOf<Source>> empty = {}) {
  return {topology, std::move(source), run_out, std::move(empty)};
}

}  // namespace rookery
