// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// What the tests of modules share: placing one alone, small inputs by formula, and gradients by differences.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <rookery/core/members.hpp>
#include <rookery/core/parameter.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace rookery::cases {

/// Places the parameters and buffers of a module that stands alone.
template <class Module> void place_alone(Module& module) {
  visit_leaves(module, "m", [](std::string_view name, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter>) leaf.place(name, 3);
    if constexpr (std::is_same_v<Leaf, Buffer>) leaf.place();
  });
}

/// The names of a module's parameters and buffers.
template <class Module> std::vector<std::string> names_of(Module& module) {
  std::vector<std::string> found;
  visit_leaves(module, "", [&](std::string_view name, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter> || std::is_same_v<Leaf, Buffer>) found.emplace_back(name);
  });
  return found;
}

/// Element (i, j) is ((a i + b j) mod m - o) / s, [rows, columns] float64: what the references in Python were given too.
inline at::Tensor pattern(std::int64_t rows, std::int64_t columns, std::int64_t a, std::int64_t b, std::int64_t m, std::int64_t o,
                          double s) {
  auto tensor = at::empty({rows, columns}, at::kDouble);
  auto* out = tensor.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) *out++ = static_cast<double>((a * i + b * j) % m - o) / s;
  return tensor;
}

/// Largest |a - b|, b given by its elements.
inline double gap(const at::Tensor& a, const std::vector<double>& b) {
  if (a.numel() != static_cast<std::int64_t>(b.size())) return INFINITY;
  return a.detach().to(at::kDouble).reshape({-1}).sub(at::tensor(b, at::kDouble)).abs().max().item<double>();
}

/// Largest difference between the gradient of `fn(x)`, one number, and the one by central differences; x is float64.
inline double gradient_gap(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& fn) {
  const auto leaf = x.detach().clone().set_requires_grad(true);
  fn(leaf).backward();
  const auto moved = x.detach().clone();
  auto* value = moved.mutable_data_ptr<double>();
  double largest = 0;
  constexpr double step = 1e-6;
  for (std::int64_t i = 0; i < moved.numel(); ++i) {
    const double before = value[i];
    value[i] = before + step;
    const double above = fn(moved).item<double>();
    value[i] = before - step;
    const double below = fn(moved).item<double>();
    value[i] = before;
    largest = std::max(largest, std::abs((above - below) / (2 * step) - leaf.grad().reshape({-1})[i].item<double>()));
  }
  return largest;
}

}  // namespace rookery::cases
