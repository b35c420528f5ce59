// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Key: the compile-time path to a member of a model, with an optional name behind it.
//
//   Key<&Ranker::user>, Key<&TwoTower::query, &Tower::tables>, Key<&Ranker::item, "negatives">
//
// Include cost: none.

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>

#include <rookery/core/members.hpp>

namespace rookery {

namespace detail {

/// Text as a template argument.
template <std::size_t N> struct FixedString {
  char text[N] = {};
  constexpr FixedString(const char (&literal)[N]) { std::copy_n(literal, N, text); }
};

/// One part of a key: a member pointer, or a name.
template <class Value> struct KeyPart {
  Value value;
  constexpr KeyPart(Value part) : value(part) {}
  static constexpr bool is_name = false;
};
template <std::size_t N> struct KeyPart<FixedString<N>> {
  FixedString<N> value;
  constexpr KeyPart(const char (&literal)[N]) : value(literal) {}
  static constexpr bool is_name = true;
};
template <class Value, class Class> KeyPart(Value Class::*) -> KeyPart<Value Class::*>;
template <std::size_t N> KeyPart(const char (&)[N]) -> KeyPart<FixedString<N>>;

/// Type of the member that the last of a tuple of member pointers points to; void for none.
template <class Path, std::size_t size = std::tuple_size_v<Path>>
struct LastMember : LastMember<std::tuple<std::tuple_element_t<size - 1, Path>>, 1> {};
template <class Path> struct LastMember<Path, 0> {
  using type = void;
};
template <class Value, class Class> struct LastMember<std::tuple<Value Class::*>, 1> {
  using type = Value;
};

template <class Value> constexpr auto pointers_of(const KeyPart<Value>& part) {
  if constexpr (KeyPart<Value>::is_name) return std::tuple<>{};
  else return std::tuple<Value>(part.value);
}

}  // namespace detail

/// A path of member pointers from a model down to one of its members, then at most one name.
template <detail::KeyPart... Parts> struct Key {
  static constexpr auto path = std::tuple_cat(detail::pointers_of(Parts)...);

  /// Type of the member that the path leads to; void for an empty path.
  using Member = typename detail::LastMember<std::remove_const_t<decltype(path)>>::type;

  /// The member of `object` that the path leads to.
  template <class Object> static auto& resolve(Object& object) {
    return std::apply([&](auto... pointers) -> auto& { return follow(object, pointers...); }, path);
  }

  /// Whether the path is exactly these member pointers.
  template <class... Pointers> static constexpr bool leads_to(Pointers... pointers) {
    if constexpr (std::is_same_v<std::remove_const_t<decltype(path)>, std::tuple<Pointers...>>) return path == std::tuple(pointers...);
    else return false;
  }

 private:
  template <class Object> static auto& follow(Object& object) { return object; }
  template <class Object, class Pointer, class... Pointers> static auto& follow(Object& object, Pointer first, Pointers... rest) {
    return follow(object.*first, rest...);
  }
};

}  // namespace rookery
