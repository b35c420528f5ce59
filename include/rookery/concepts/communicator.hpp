// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Topology = facts (who am I, how many are we); Communicator = verbs (what ranks do together).
//
// Planning needs facts only. Verbs are called through the free functions of comm/<verb>.hpp, which cost nothing on a topology
// that is not distributed.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/concepts/topology.hpp>

namespace rookery {

/// How an all-reduce combines its contributions, element by element, in rank order.
enum class ReduceOp { sum, max, min };

/// Rows of dimension 0 that go to, or come from, each rank [W].
using Counts = std::vector<std::int64_t>;

/// A value that is already there, with the handle's interface.
template <class T> struct Ready {
  T value;
  T wait() { return std::move(value); }
};

namespace detail {
template <class Topology> inline constexpr bool has_all_verbs = false;    // where a verb finds that it has not
/// The end of a sentence about ranks that meet in different collectives.
inline constexpr std::string_view same_batches = "; did every rank see the same number of batches?";
}

namespace concepts {

/// The verbs of a distributed topology. Each returns a handle whose wait() gives the result; a handle is waited for once.
/// Every rank calls the same verbs in the same order. A tensor given to a verb is not written to afterwards.
template <class T>
concept Communicator = Topology<T> && requires(T& t, at::Tensor x, const Counts& counts, ReduceOp op) {
  { t.all_to_all_v(x, counts, counts).wait() } -> std::same_as<at::Tensor>;
  { t.all_reduce(x, op).wait() } -> std::same_as<at::Tensor>;
  { t.reduce_scatter_v(x, counts).wait() } -> std::same_as<at::Tensor>;
  { t.all_gather_v(x).wait() } -> std::same_as<std::vector<at::Tensor>>;
  { t.broadcast(x, int{}).wait() } -> std::same_as<at::Tensor>;
  { t.barrier().wait() } -> std::same_as<bool>;
  t.abort(std::string_view{});
};

}  // namespace concepts
}  // namespace rookery
