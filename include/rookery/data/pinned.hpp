// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// pinned(source, device): batches in page-locked memory, from which a copy to a device runs beside the step; as they are for the host.
//
//   for (TableBatch& batch : prefetch(pinned(reader.epoch(Part::train, epoch), topology.device()), 2)) ...
// Answers to the pin_memory of torch's DataLoader.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <iterator>
#include <optional>
#include <utility>

#include <rookery/data/batches.hpp>
#include <rookery/sparse/batch.hpp>

namespace rookery {

/// Copies what the source gives into page-locked memory, unless `device` is the host. Under prefetch, its thread does that.
template <BatchSource Source> class Pinned {
 public:
  Pinned(Source source, at::Device device) : source_(std::move(source)), is_on_(!device.is_cpu()) {}

  std::optional<BatchOf<Source>> next() {
    auto batch = source_.next();
    if (batch && is_on_) batch = pin_memory(*batch);
    return batch;
  }

  auto begin() { return NextIterator<Pinned>{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  Source source_;
  bool is_on_;
};

/// The source, its batches in page-locked memory where they go to a device.
template <BatchSource Source> Pinned<Source> pinned(Source source, at::Device device) { return {std::move(source), device}; }

}  // namespace rookery
