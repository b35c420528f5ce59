// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ModelAndLoss: a model, a loss and the batch they are for, checked against one another at compile time.
//
// Answers to the-algorithm-ml's ModelAndLoss; differs: typed output, no mutable dict, the loss is a sum beside its divisor.
// The primary template explains what is missing; the constrained one is used.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <rookery/concepts/batch.hpp>
#include <rookery/concepts/loss.hpp>
#include <rookery/concepts/model.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/embedding/lookups.hpp>

namespace rookery {

namespace detail {

/// What a model's keys look like, evaluated only where `lookups` exists.
template <class Model, class Batch> consteval KeyFaults key_faults() {
  if constexpr (concepts::HasLookups<Model, Batch>) {
    return CheckKeys<Model, decltype(std::declval<const Model&>().lookups(std::declval<const Batch&>()))>::faults();
  } else {
    return CheckKeys<Model, Lookups<>>::faults();
  }
}

/// The first thing that keeps a model, a loss and a batch from training together.
enum class Missing { nothing, batch, members, unique_keys, listed_keys, all_lookups, reachable_tables, forward, sum, normaliser };

template <class Model, class Loss, class Batch> consteval Missing missing() {
  if constexpr (!concepts::Batch<Batch>) return Missing::batch;
  else if constexpr (!HasMembers<Model>) return Missing::members;
  else if constexpr (key_faults<Model, Batch>().repeated) return Missing::unique_keys;
  else if constexpr (key_faults<Model, Batch>().foreign) return Missing::listed_keys;
  else if constexpr (key_faults<Model, Batch>().forgotten) return Missing::all_lookups;
  else if constexpr (key_faults<Model, Batch>().unreachable) return Missing::reachable_tables;
  else if constexpr (!concepts::Model<Model, Batch>) return Missing::forward;
  else if constexpr (!concepts::HasSum<Loss, OutputOf<Model, Batch>, Batch>) return Missing::sum;
  else if constexpr (!concepts::HasNormaliser<Loss, Batch>) return Missing::normaliser;
  else return Missing::nothing;
}

template <class Model, class Loss, class Batch>
concept Trainable = missing<Model, Loss, Batch>() == Missing::nothing;

}  // namespace detail

/// Chosen when a requirement fails: one error that says what to write.
template <class Model, class Loss, class Batch> struct ModelAndLoss {
  static constexpr auto missing = detail::missing<Model, Loss, Batch>();
  using Missing = detail::Missing;
  static_assert(missing != Missing::batch,
                "ModelAndLoss<Model, Loss, Batch>: write `std::int64_t size() const` on Batch; see docs/concepts.md#batch");
  static_assert(missing != Missing::members,
                "ModelAndLoss<Model, Loss, Batch>: write `static constexpr auto members()` on Model; see docs/concepts.md#members");
  static_assert(missing != Missing::unique_keys,
                "ModelAndLoss<Model, Loss, Batch>: two lookups have the same key; name one of them as in `lookup<&Model::item, "
                "\"negatives\">`; see docs/concepts.md#lookups");
  static_assert(missing != Missing::listed_keys,
                "ModelAndLoss<Model, Loss, Batch>: a lookup's key leads to no collection that `members()` of Model lists; see "
                "docs/concepts.md#lookups");
  static_assert(missing != Missing::all_lookups,
                "ModelAndLoss<Model, Loss, Batch>: a collection in `members()` of Model is never looked up; write "
                "`lookup<&Model::collection>(..)` in `lookups(const Batch&) const`; see docs/concepts.md#lookups");
  static_assert(missing != Missing::reachable_tables,
                "ModelAndLoss<Model, Loss, Batch>: a collection lies in a vector, array or optional of Model, where no lookup can name it; "
                "make it a member of a struct; see docs/concepts.md#lookups");
  static_assert(missing != Missing::forward,
                "ModelAndLoss<Model, Loss, Batch>: write `Output forward(const Batch&, const auto& pooled)` on Model, or `Output "
                "forward(const Batch&)` where it has no tables; see docs/concepts.md#model");
  static_assert(missing != Missing::sum,
                "ModelAndLoss<Model, Loss, Batch>: write `at::Tensor operator()(const Output&, const Batch&) const` on Loss, the SUM over "
                "the batch; see docs/concepts.md#loss");
  static_assert(missing != Missing::normaliser,
                "ModelAndLoss<Model, Loss, Batch>: write `at::Tensor normaliser(const Batch&) const` on Loss, the divisor of the sum; see "
                "docs/concepts.md#loss");

  Model model;
  Loss loss;
};

/// A model and its loss. An aggregate: `ModelAndLoss<Ranker, WeightedBce, Clicks>{std::move(ranker), {}}`.
template <class Model, class Loss, class Batch>
  requires detail::Trainable<Model, Loss, Batch>
struct ModelAndLoss<Model, Loss, Batch> {
  Model model;
  [[no_unique_address]] Loss loss;
};

/// The least types that fit together. A refused ModelAndLoss is placed as these, so that its one error stays the only one.
struct ArchetypeBatch {
  ArchetypeBatch() = default;
  template <class Any> ArchetypeBatch(const Any&) {}
  std::int64_t size() const { return 0; }
  at::Tensor labels;
};
struct ArchetypeOutput {
  at::Tensor logits;
};
struct ArchetypeModel {
  static constexpr auto members() { return rookery::members(); }
  ArchetypeOutput forward(const ArchetypeBatch&) { return {}; }
};
struct ArchetypeLoss {
  at::Tensor operator()(const ArchetypeOutput&, const ArchetypeBatch&) const { return ops::zeros({}); }   // []
  at::Tensor normaliser(const ArchetypeBatch&) const { return ops::zeros({}); }                           // []
};

}  // namespace rookery
