// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Batch: what a model trains on. A plain struct with a number of rows.  Include cost: none.

#include <concepts>
#include <cstdint>

namespace rookery::concepts {

/// `size()` is the number of rows of this rank's slice; it may be 0.
template <class B>
concept Batch = std::movable<B> && requires(const B& batch) {
  { batch.size() } -> std::convertible_to<std::int64_t>;
};

}  // namespace rookery::concepts
