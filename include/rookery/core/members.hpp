// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// `members()`: the one registration of a type. A struct lists its members once, and from the list come the names of
// parameters, moves between devices, slices of a batch and checkpoint entries.
//
//   static constexpr auto members() { return rk::members("user", &Ranker::user, "over", &Ranker::over); }
//
// Source: stands in for torch.nn.Module's registration by assignment; nothing virtual, nothing at run time.
// Include cost: none.

#include <array>
#include <concepts>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace rookery {

/// A member's name beside its pointer.
template <class Pointer> struct Member {
  std::string_view name;
  Pointer pointer;
};

/// The members of one type, in declaration order.
template <class... Pointers> struct Members {
  std::tuple<Member<Pointers>...> list;
};

/// A value whose name is known only at run time, for sequences: elements of a `std::vector<Named<Parameter>>` are called by their names.
template <class T> struct Named {
  std::string name;
  T value;
};

namespace detail {

template <class T> struct is_named : std::false_type {};
template <class T> struct is_named<Named<T>> : std::true_type {};

template <class Tuple, std::size_t... Index> constexpr auto pair_up(const Tuple& arguments, std::index_sequence<Index...>) {
  return Members<std::tuple_element_t<2 * Index + 1, Tuple>...>{
      {Member<std::tuple_element_t<2 * Index + 1, Tuple>>{std::get<2 * Index>(arguments), std::get<2 * Index + 1>(arguments)}...}};
}

template <class... Pointers> constexpr bool names_differ(const Members<Pointers...>& members) {
  const auto names = std::apply([](const auto&... member) { return std::array<std::string_view, sizeof...(member)>{member.name...}; },
                                members.list);
  for (std::size_t i = 0; i < names.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (names[i] == names[j] && !names[i].empty()) return false;
  return true;
}

/// The list of T, made and checked once.
template <class T> struct ListedMembers {
  static constexpr auto value = T::members();
  static_assert(names_differ(value), "rookery::members: two members have the same name; give each its own; see docs/concepts.md#members");
};

template <class T> struct is_sequence : std::false_type {};
template <class T, class A> struct is_sequence<std::vector<T, A>> : std::true_type {};
template <class T, std::size_t N> struct is_sequence<std::array<T, N>> : std::true_type {};
template <class T> struct is_optional : std::false_type {};
template <class T> struct is_optional<std::optional<T>> : std::true_type {};

inline std::string join_path(std::string_view prefix, std::string_view name) {
  std::string path(prefix);
  if (!path.empty() && !name.empty()) path += '.';
  return path += name;
}

}  // namespace detail

/// Builds a member list from alternating names and member pointers: `members("a", &T::a, "b", &T::b)`. Names differ; what has an
/// empty name is called as its owner is.
template <class... Arguments> constexpr auto members(Arguments... arguments) {
  static_assert(sizeof...(Arguments) % 2 == 0, "rookery::members: write names and member pointers in turn; see docs/concepts.md#members");
  return detail::pair_up(std::tuple<Arguments...>{arguments...}, std::make_index_sequence<sizeof...(Arguments) / 2>{});
}

/// A type that lists its members. Its list is checked here, which is the first that anyone asks of a model.
template <class T>
concept HasMembers = requires { std::remove_cvref_t<T>::members(); } && (sizeof(detail::ListedMembers<std::remove_cvref_t<T>>) > 0);

/// Calls `fn(name, member)` for each listed member of `object`, in order.
template <HasMembers Object, class Fn> void for_each_member(Object& object, Fn&& fn) {
  const auto each = [&](const auto&... member) { (fn(member.name, object.*(member.pointer)), ...); };
  std::apply(each, detail::ListedMembers<std::remove_const_t<Object>>::value.list);
}

/// Any leaf.
struct AnyLeaf {
  template <class Leaf> static constexpr bool wants = true;
};

namespace detail {

template <class Wanted, class T> constexpr bool reaches();
template <class Wanted> constexpr bool members_reach(const Members<>&) { return false; }
template <class Wanted, class T, class... Of> constexpr bool members_reach(const Members<Of T::*...>&) {
  return (reaches<Wanted, Of>() || ...);
}

/// Whether a value of type T can hold a leaf that is wanted.
template <class Wanted, class T> constexpr bool reaches() {
  if constexpr (HasMembers<T>) return members_reach<Wanted>(ListedMembers<T>::value);
  else if constexpr (is_sequence<T>::value || is_optional<T>::value) return reaches<Wanted, typename T::value_type>();
  else if constexpr (is_named<T>::value) return reaches<Wanted, decltype(T::value)>();
  else return Wanted::template wants<T>;
}

}  // namespace detail

/// Walks `object` down to what has no members of its own and calls `fn(path, leaf)` there: structs by member name,
/// vectors and arrays by index, or by name where their elements are Named, an optional by its value when there is one.
/// `Wanted::wants<Leaf>` says at compile time which types of leaves `fn` is for; where none is below, nothing is compiled.
template <class Wanted = AnyLeaf, class Object, class Fn> void visit_leaves(Object& object, std::string_view path, Fn&& fn) {
  using Plain = std::remove_const_t<Object>;
  if constexpr (!detail::reaches<Wanted, Plain>()) {
    return;
  } else if constexpr (HasMembers<Plain>) {
    for_each_member(object, [&](std::string_view name, auto& member) { visit_leaves<Wanted>(member, detail::join_path(path, name), fn); });
  } else if constexpr (detail::is_sequence<Plain>::value) {
    std::size_t index = 0;
    for (auto& element : object) {
      if constexpr (detail::is_named<typename Plain::value_type>::value)
        visit_leaves<Wanted>(element.value, detail::join_path(path, element.name), fn);
      else visit_leaves<Wanted>(element, detail::join_path(path, std::to_string(index++)), fn);
    }
  } else if constexpr (detail::is_optional<Plain>::value) {
    if (object) visit_leaves<Wanted>(*object, path, fn);
  } else {
    fn(path, object);
  }
}

}  // namespace rookery
