// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Topology: the facts about ranks that planning, reports and readers need.  Include cost: c10 device only.

#include <c10/core/Device.h>

#include <concepts>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace rookery::concepts {

/// Facts. `is_distributed` is a compile-time constant; where it is false no collective code is instantiated.
template <class T>
concept Topology = std::movable<T> && requires(const T& t) {
  requires std::same_as<std::remove_cvref_t<decltype(T::is_distributed)>, bool>;
  { T::name } -> std::convertible_to<std::string_view>;
  { t.rank() } -> std::same_as<int>;
  { t.world_size() } -> std::same_as<int>;
  { t.device() } -> std::same_as<c10::Device>;
};

/// Whether a topology's device may be an accelerator. One that says `has_device = false` compiles no code for it.
template <class T> consteval bool may_have_device() {
  if constexpr (requires { { T::has_device } -> std::convertible_to<bool>; }) return T::has_device;
  else return true;
}

/// Ranks on each node, where the topology says so; else all ranks are on one.
template <class T> int local_world_size(const T& topology) {
  if constexpr (requires { { topology.local_world_size() } -> std::same_as<int>; }) return topology.local_world_size();
  else return topology.world_size();
}

}  // namespace rookery::concepts
