// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Model: a plain struct with `members()` and two phases, `lookups(batch)` and `forward(batch, pooled)`; without tables only
// `forward(batch)`.  Include cost: none.

#include <type_traits>
#include <utility>

#include <rookery/core/members.hpp>

namespace rookery {

template <class... K> struct Lookups;
template <class... K> struct Pooled;

namespace detail {

template <class> struct PooledOf;
template <class... K> struct PooledOf<Lookups<K...>> {
  using type = Pooled<K...>;
};

}  // namespace detail

namespace concepts {

/// Phase one: the model says what it looks up.
template <class M, class B>
concept HasLookups = requires(const M& model, const B& batch) { model.lookups(batch); };

/// Phase two, with what came back.
template <class M, class B>
concept HasForwardOfPooled = requires(M& model, const B& batch,
                                      const typename detail::PooledOf<decltype(model.lookups(batch))>::type& pooled) {
  model.forward(batch, pooled);
};

/// Phase two of a model without tables.
template <class M, class B>
concept HasForwardOfBatch = requires(M& model, const B& batch) { model.forward(batch); };

/// A model that can be run on a batch.
template <class M, class B>
concept Model = HasMembers<M> && ((HasLookups<M, B> && HasForwardOfPooled<M, B>) || (!HasLookups<M, B> && HasForwardOfBatch<M, B>));

}  // namespace concepts

namespace detail {

template <class M, class B> struct ForwardResult;
template <class M, class B>
  requires concepts::HasLookups<M, B>
struct ForwardResult<M, B> {
  using Looked = decltype(std::declval<const M&>().lookups(std::declval<const B&>()));
  using type = decltype(std::declval<M&>().forward(std::declval<const B&>(), std::declval<const typename PooledOf<Looked>::type&>()));
};
template <class M, class B>
  requires(!concepts::HasLookups<M, B>)
struct ForwardResult<M, B> {
  using type = decltype(std::declval<M&>().forward(std::declval<const B&>()));
};

}  // namespace detail

/// What a model's forward gives for a batch.
template <class M, class B> using OutputOf = typename detail::ForwardResult<M, B>::type;

}  // namespace rookery
