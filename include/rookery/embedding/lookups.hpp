// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Phase one of a model: what it looks up in its tables for a batch, said as a value.
//
//   auto lookups(const Clicks& b) const {
//     return rk::lookups(rk::lookup<&Ranker::user>(b.user_ids), rk::lookup<&Ranker::item>(b.item_ids)); }
//
// All lookups of a batch are one exchange. `forward` finds what came back with `get<&Ranker::user>(pooled)`.
// Source: stands in for TorchRec's tracing of input distributions.  Include cost: tensor.

#include <array>
#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/core/key.hpp>
#include <rookery/core/members.hpp>
#include <rookery/sparse/keyed_jagged_tensor.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

/// A collection of tables, as opposed to any other member of a model.
template <class T>
concept EmbeddingTables = std::remove_cvref_t<T>::is_embedding_tables;

/// One lookup: which tables, and the ids.
template <class K> struct Lookup {
  KeyedJaggedTensor features;
};

/// All lookups of a batch, in member order.
template <class... K> struct Lookups {
  std::array<KeyedJaggedTensor, sizeof...(K)> features;
};

/// What came back, a lookup each: the Output of its collection, such as pooled embeddings [B, sum(D)].
template <class... K> struct Pooled {
  std::tuple<typename K::Member::Output...> outputs;

  /// From what the runtime looked up, in the same order.
  template <class LookedUp> static Pooled from(std::vector<LookedUp>&& looked) {
    return [&]<std::size_t... i>(std::index_sequence<i...>) -> Pooled {
      return {{K::Member::output(std::move(looked[i]))...}};
    }(std::index_sequence_for<K...>{});
  }
};

/// Looks `features` up in the tables that the key leads to.
template <detail::KeyPart... Parts> Lookup<Key<Parts...>> lookup(KeyedJaggedTensor features) { return {std::move(features)}; }

/// Joins the lookups of a batch.
template <class... K> Lookups<K...> lookups(Lookup<K>... lookup) { return {{std::move(lookup.features)...}}; }

/// What one lookup gave: a KeyedTensor, or KeyedSequences of an EmbeddingCollection.
template <detail::KeyPart... Parts, class... K> const auto& get(const Pooled<K...>& pooled) {
  constexpr bool present = (std::is_same_v<Key<Parts...>, K> || ...);
  static_assert(
      present,
      "rookery::get: this key is not among the model's lookups; write `lookup<...>` with the same key; see docs/concepts.md#lookups");
  if constexpr (present) {
    constexpr auto index = [] {
      std::size_t i = 0;
      (void)((std::is_same_v<Key<Parts...>, K> ? true : (++i, false)) || ...);
      return i;
    }();
    return std::get<index>(pooled.outputs);
  } else {                                                     // explained already
    static const KeyedTensor nothing;
    return nothing;
  }
}

namespace detail {

/// Whether T holds tables in a vector, array or optional, where no key leads.
template <class T, bool inside = false> constexpr bool has_unreachable_tables() {
  if constexpr (EmbeddingTables<T>) return inside;
  else if constexpr (is_sequence<T>::value || is_optional<T>::value) return has_unreachable_tables<typename T::value_type, true>();
  else if constexpr (is_named<T>::value) return has_unreachable_tables<decltype(T::value), true>();
  else if constexpr (HasMembers<T>)
    return std::apply(
        []<class... Class, class... Value>(const Member<Value Class::*>&...) { return (has_unreachable_tables<Value, inside>() || ...); },
        T::members().list);
  else return false;
}

template <class T, class Fn, class... Prefix> constexpr void for_each_tables_path(Fn& fn, Prefix... prefix) {
  if constexpr (HasMembers<T>) {
    std::apply([&]<class... M>(const Member<M>&... member) { (for_each_tables_member<M>(fn, member.pointer, prefix...), ...); },
               T::members().list);
  }
}
template <class Pointer, class Fn, class Value, class Class, class... Prefix>
constexpr void for_each_tables_member(Fn& fn, Value Class::*pointer, Prefix... prefix) {
  if constexpr (EmbeddingTables<Value>) fn(prefix..., pointer);
  else for_each_tables_path<Value>(fn, prefix..., pointer);
}

/// What is wrong with the keys of a model's lookups, if anything.
struct KeyFaults {
  bool repeated = false;     // two lookups have the same key
  bool foreign = false;      // a key leads to no tables that members() lists
  bool forgotten = false;    // members() lists tables that are never looked up
  bool unreachable = false;  // tables inside a vector, array or optional, where no key leads
};

template <class Model, class List> struct CheckKeys;
template <class Model, class... K> struct CheckKeys<Model, Lookups<K...>> {
  static constexpr KeyFaults faults() {
    KeyFaults found;
    std::size_t same = 0;
    ((same += same_as_count<K>()), ...);
    found.repeated = same > sizeof...(K);
    std::array<bool, sizeof...(K) + 1> listed{};
    auto on_tables = [&](auto... path) {
      bool named = false;
      std::size_t index = 0;
      ((K::leads_to(path...) ? (named = listed[index] = true, void()) : void(), ++index), ...);
      if (!named) found.forgotten = true;
    };
    for_each_tables_path<Model>(on_tables);
    found.unreachable = has_unreachable_tables<Model>();
    for (std::size_t i = 0; i < sizeof...(K); ++i)
      if (!listed[i]) found.foreign = true;
    return found;
  }

 private:
  template <class One> static constexpr std::size_t same_as_count() { return (std::size_t{std::is_same_v<One, K>} + ... + 0); }
};

}  // namespace detail
}  // namespace rookery
