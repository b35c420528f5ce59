// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The numbers that one small all-reduce of a step carries: squared norms of tables, the normaliser, and what ranks must agree on.
//
// Compiled once for all models and topologies; Optimizer puts the collective between the two halves.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/optim/dense.hpp>
#include <rookery/sharding/gradient_exchange.hpp>

namespace rookery {

/// What the summed gradient is divided by. Where ranks' batches are alike in rows and weights, `mean` is `global_mean`.
enum class GradientDivision {
  global_mean,     // the normalisers of all passes of all ranks, summed: every row counts alike, however uneven the batches
  mean,            // each pass's gradient by its own normaliser, their sum by the number of passes: every pass counts alike, an empty one
                   // as a gradient of zero, as DDP and TorchRec have it
  sum              // each pass's gradient by its own normaliser: the same without the last division
};

namespace detail {

inline constexpr std::array<const char*, 3> division_names{"global_mean", "mean", "sum"};   // of GradientDivision

/// What multiplies the sum of all passes' gradients, which under `mean` and `sum` are divided by their own normalisers already.
inline double gradient_scale(GradientDivision division, bool divides, double normaliser, double passes) {
  if (division == GradientDivision::sum) return 1;
  if (division == GradientDivision::mean) return 1 / passes;
  return !divides ? 1 : normaliser == 0 ? 0 : 1 / normaliser;
}

/// The squared norm of dense and table gradients, the normaliser and the passes, all over all ranks, whether ranks have the same learning
/// rates, and the first thing that is not finite.
struct StepNorm {
  double squares = 0, normaliser = 0, passes = 0;
  bool same_rates = true;
  std::string not_finite{};
};

/// Forward passes that a backward pass followed.
inline std::int64_t passes_with_gradients(std::span<const Capture> captures, const Routing& routing) {
  return std::count_if(captures.begin(), captures.end(), [&](const Capture& capture) {
    if (capture.used.defined()) return capture.used.grad().defined();
    const auto reached = reached_slots(capture, routing);
    return std::find(reached.begin(), reached.end(), 1) != reached.end();
  });
}

/// This rank's part of the sums: squares of each table's gradients, normaliser, passes, and one number of each rank's learning rates.
inline at::Tensor step_sums(std::span<const ShardGradients> shards, std::span<const Capture> captures,
                            std::span<const PlacedTable> tables, std::int64_t passes, std::span<const double> rates, int rank,
                            int world_size) {
  const auto squares = static_cast<std::int64_t>(tables.size());
  auto sums = at::zeros({squares + 2 + world_size}, at::kDouble);                            // [T squares, normaliser, passes, W rates]
  auto* values = sums.mutable_data_ptr<double>();
  for (const auto& shard : shards)
    if (tables[shard.table].is_primary(tables[shard.table].shards[shard.shard]))
      values[shard.table] += sum_of_squares(shard.gradients.sums);
  values += squares;
  for (const auto& capture : captures)
    if (capture.used.defined() && capture.used.grad().defined() && capture.normaliser.defined())
      values[0] += capture.normaliser.item<double>();
  values[1] = static_cast<double>(passes);
  std::uint64_t hash = 0;                                    // of which a double holds 53 bits
  for (const auto rate : rates) hash = mix64(hash + std::bit_cast<std::uint64_t>(rate));
  values[2 + rank] = static_cast<double>(hash >> 11);
  return sums;
}

/// What the sums over ranks say, with the dense gradients, which are summed already.
/// Errors: Error when no rank ran backward.
inline StepNorm read_step_sums(const at::Tensor& sums, std::span<const PlacedTable> tables, std::span<const DenseParameter> dense,
                               bool divides) {
  const auto* values = sums.const_data_ptr<double>();
  const auto* after = values + tables.size();
  check<Error>(after[1] > 0, "Optimizer: step() without backward() from any rank's forward pass since the last one");
  const auto* rates = after + 2;
  StepNorm norm{.squares = 0, .normaliser = after[0], .passes = after[1]};
  norm.same_rates = std::all_of(rates, values + sums.numel(), [&](double of_rank) { return of_rank == rates[0]; });
  if (divides && !(std::isfinite(after[0]) && after[0] >= 0))
    norm.not_finite = concat("the loss's normaliser, summed over ranks, is ", after[0]);
  const auto add = [&](double squares, const std::string& name) {
    if (!std::isfinite(squares) && norm.not_finite.empty()) norm.not_finite = concat("the gradient of '", name, "' is not finite");
    norm.squares += squares;
  };
  for (const auto& one : dense)
    if (one.gradient.defined()) add(sum_of_squares(one.gradient), one.name);
  for (std::size_t t = 0; t < tables.size(); ++t) add(values[t], tables[t].description.name + ".weight");
  return norm;
}

/// [W] with 1 for this rank if one of its own gradients or its loss's divisor is not finite.
inline at::Tensor not_finite_here(std::span<const DenseParameter> dense, std::span<const Capture> captures, int rank, int world_size) {
  const auto bad = [](const at::Tensor& tensor) { return tensor.defined() && !std::isfinite(sum_of_squares(tensor.contiguous())); };
  bool found = std::any_of(dense.begin(), dense.end(), [&](const auto& one) { return bad(one.parameter->tensor().grad()); });
  for (const auto& capture : captures) {
    const auto of_leaf = [&](const at::Tensor& leaf) { return leaf.defined() && bad(leaf.grad()); };
    found = found || std::any_of(capture.leaves.begin(), capture.leaves.end(), of_leaf) ||
            std::any_of(capture.slot_leaves.begin(), capture.slot_leaves.end(), of_leaf) ||
            (capture.normaliser.defined() && !std::isfinite(capture.normaliser.item<double>()));
  }
  auto flags = at::zeros({world_size}, at::kDouble);                                         // [W]
  flags.mutable_data_ptr<double>()[rank] = found;
  return flags;
}

/// The ranks whose flag [W] is set, as the end of a sentence; nothing on one process.
inline std::string ranks_of(const at::Tensor& flags) {
  std::vector<std::int64_t> ranks;
  for (std::int64_t rank = 0; rank < flags.numel(); ++rank)
    if (flags.const_data_ptr<double>()[rank] > 0) ranks.push_back(rank);
  return flags.numel() == 1 || ranks.empty() ? std::string() : concat(" because of ranks ", ranks);
}

}  // namespace detail
}  // namespace rookery
