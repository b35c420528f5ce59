// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NextIterator: a loop over whatever has `std::optional<Batch> next()`.
//
//   class Epoch { public: std::optional<TableBatch> next(); auto begin() { return NextIterator<Epoch>{*this}; }
//                         std::default_sentinel_t end() const { return {}; } };
//   for (TableBatch& batch : epoch) ...                  // the batch is the loop's own: it may be changed or moved from
// Include cost: none.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>

namespace rookery {

/// A range that is drawn once, batch by batch. `next()` returns nothing when it is at its end.
template <class Source>
concept BatchSource = requires(Source& source) {
  *source.next();
};

/// What a source gives.
template <BatchSource Source> using BatchOf = typename decltype(std::declval<Source&>().next())::value_type;

/// Rows [begin, end) of a batch of `rows` that are `rank`'s: nearly equal slices in rank order, the first ranks have one more.
struct BatchSlice {
  std::int64_t begin = 0, end = 0;
};
inline BatchSlice rank_slice(std::int64_t rows, std::int64_t rank, std::int64_t world_size) {
  const auto each = rows / world_size, more = rows % world_size;
  const auto begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

/// An input iterator that holds the current batch; the source outlives it.
template <class Source> class NextIterator {
 public:
  using value_type = BatchOf<Source>;
  using difference_type = std::ptrdiff_t;
  using iterator_concept = std::input_iterator_tag;

  explicit NextIterator(Source& source) : source_(&source), batch_(source.next()) {}

  value_type& operator*() const { return *batch_; }
  NextIterator& operator++() {
    batch_ = source_->next();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const NextIterator& iterator, std::default_sentinel_t) { return !iterator.batch_; }

 private:
  Source* source_;
  mutable std::optional<value_type> batch_;
};

}  // namespace rookery
