// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The order of an epoch's rows: a function of the number of rows, the seed, the epoch and the window, and of nothing else.
//
// std::mt19937_64 and std::seed_seq give the same numbers everywhere; std::shuffle and the distributions do not, so both steps are here.
// Include cost: none.

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace rookery {

namespace detail {

/// A generator for (seed, stream).
inline std::mt19937_64 seeded_engine(std::uint64_t seed, std::uint64_t stream) {
  std::seed_seq sequence{seed & 0xffffffffU, seed >> 32, stream & 0xffffffffU, stream >> 32};
  return std::mt19937_64(sequence);
}

/// A number below `n`, all equally likely.
inline std::uint64_t draw_below(std::mt19937_64& engine, std::uint64_t n) {
  while (true) {
    const auto drawn = engine(), remainder = drawn % n;
    if (drawn - remainder <= std::uint64_t{0} - n) return remainder;  // else in the last, incomplete run of n, which favours the small
  }
}

/// Fisher and Yates.
inline void shuffle(std::span<std::int64_t> values, std::mt19937_64& engine) {
  for (auto left = values.size(); left > 1; --left) std::swap(values[left - 1], values[draw_below(engine, left)]);
}

}  // namespace detail

/// The numbers 0 .. rows-1, each once, in an order drawn from (seed, epoch).
///
/// With `window` >= rows every order is equally likely. A smaller window bounds what a reader has to hold: the rows are cut into blocks
/// of window / 8 neighbours, the blocks come in random order, and each `window` rows of that sequence are shuffled among themselves.
/// Cost: 8 bytes for each row of the window and for each block; 20 ns a row, 75 ns where a window of ten million leaves the caches.
class ShuffledRows {
 public:
  ShuffledRows(std::int64_t rows, std::uint64_t seed, std::uint64_t epoch, std::int64_t window)
      : engine_(detail::seeded_engine(seed, epoch)),
        rows_(rows),
        window_(std::clamp<std::int64_t>(window, 1, std::max<std::int64_t>(rows, 1))),
        block_(window_ >= rows ? window_ : std::max<std::int64_t>(window_ / 8, 1)) {
    for (std::int64_t first = 0; first < rows; first += block_) blocks_.push_back(first);
    detail::shuffle(blocks_, engine_);
  }

  /// The next row; to be called `rows` times at most.
  std::int64_t next() {
    if (at_ == shuffled_.size()) refill();
    return shuffled_[at_++];
  }

 private:
  void refill() {
    shuffled_.clear();
    at_ = 0;
    while (static_cast<std::int64_t>(shuffled_.size()) < window_ && block_at_ < blocks_.size()) {
      const auto row = blocks_[block_at_] + in_block_++;
      shuffled_.push_back(row);
      if (in_block_ == block_ || row + 1 == rows_) ++block_at_, in_block_ = 0;
    }
    detail::shuffle(shuffled_, engine_);
  }

  std::mt19937_64 engine_;
  std::int64_t rows_, window_, block_;
  std::vector<std::int64_t> blocks_, shuffled_;
  std::size_t at_ = 0, block_at_ = 0;
  std::int64_t in_block_ = 0;
};

}  // namespace rookery
