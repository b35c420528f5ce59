// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Reducer: one number about a parameter, computed in parts.
//
// A norm of shards is not the norm, so a reducer says how a part is summed up (partial), how parts are put together (merge), and how the
// number comes of it (finish). Written so, it gives the same number whatever the plan. A median cannot be written so.
// Answers to the callables of the-algorithm-ml's weights_to_log, which see one rank's shard.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

namespace rookery {

/// What `partial` is shown: some of a parameter's elements, or sums of squares of some of its rows, each over the whole row.
enum class ReducerInput { elements, row_squares };

namespace concepts {

/// The name is part of the log's key, `model/<name>/<parameter>`.
template <class R>
concept HasReducerName = requires {
  typename std::bool_constant<std::string_view(R::name).empty()>;                  // known to the compiler
  requires !std::string_view(R::name).empty();
};

/// `input` says what `partial` is shown, `partial_size` how many numbers it gives.
template <class R>
concept HasReducerInput = requires {
  typename std::integral_constant<ReducerInput, R::input>;
  typename std::integral_constant<std::int64_t, R::partial_size>;
  requires R::partial_size > 0;
};

/// `partial` turns a chunk, float64 of any shape and never empty, into [partial_size] float64 on the chunk's device. The chunk is a copy
/// that may be overwritten.
template <class R>
concept HasPartial = requires(const R& reducer, const at::Tensor& chunk) {
  { reducer.partial(chunk) } -> std::same_as<at::Tensor>;
};

/// `merge` puts [m, partial_size], m > 0, together to [partial_size]. Two laws: neither order nor grouping of parts matters.
template <class R>
concept HasReducerMerge = requires(const R& reducer, const at::Tensor& partials) {
  { reducer.merge(partials) } -> std::same_as<at::Tensor>;
};

/// `finish` gives the number, from the merged partial and the count of elements or rows that are in it.
template <class R>
concept HasFinish = requires(const R& reducer, std::span<const double> partial, std::int64_t count) {
  { reducer.finish(partial, count) } -> std::same_as<double>;
};

/// A reducer is a type without data: what it computes is in its name.
template <class R>
concept Reducer = std::is_empty_v<R> && std::default_initializable<R> && HasReducerName<R> && HasReducerInput<R> && HasPartial<R> &&
                  HasReducerMerge<R> && HasFinish<R>;

}  // namespace concepts
}  // namespace rookery
