// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The numbers that one small all-reduce of a step carries: squared norms of tables, the normaliser, and what ranks must agree on.
//
// Compiled once for all models and topologies; Optimizer puts the collective between the two halves.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
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

/// This rank's part of the sums that a device has: squares of each table's gradients, and normaliser. Nothing waits for it.
[[gnu::cold]] inline at::Tensor device_step_sums(std::span<const ShardGradients> shards, std::span<const Capture> captures,
                                                 std::span<const PlacedTable> tables, c10::Device device) {
  const auto squares = static_cast<std::int64_t>(tables.size());
  auto sums = ops::zeros({squares + 1}, at::TensorOptions(at::kDouble).device(device));      // [T squares, normaliser]
  for (const auto& shard : shards)
    if (tables[shard.table].is_primary(tables[shard.table].shards[shard.shard]))
      sums[static_cast<std::int64_t>(shard.table)].add_(squares_there(shard.gradients.sums));
  for (const auto& capture : captures)
    if (capture.used.defined() && capture.used.grad().defined() && capture.normaliser.defined() && !capture.normaliser.is_cpu())
      sums[squares].add_(capture.normaliser);
  return sums;
}

/// Squared norms of dense gradients, which are summed over ranks already; 0 where there is none.
inline std::vector<double> dense_squares(std::span<const DenseParameter> dense) {
  std::vector<double> squares;
  for (const auto& one : dense) squares.push_back(one.gradient.defined() ? sum_of_squares(one.gradient) : 0);
  return squares;
}

/// This rank's part of the sums: squares of each table's gradients, normaliser, passes, and one number of each rank's learning rates; of
/// what is on the host. Tables `beyond` have gradients whose sums may not be finite.
inline at::Tensor step_sums(std::span<const ShardGradients> shards, std::span<const std::size_t> beyond, std::span<const Capture> captures,
                            std::span<const PlacedTable> tables, std::int64_t passes, std::span<const double> rates, int rank,
                            int world_size) {
  const auto squares = static_cast<std::int64_t>(tables.size());
  auto sums = ops::zeros({squares + 2 + world_size}, at::kDouble);                           // [T squares, normaliser, passes, W rates]
  auto* values = sums.mutable_data_ptr<double>();
  for (const auto table : beyond) values[table] = std::numeric_limits<double>::infinity();
  for (const auto& shard : shards)
    if (shard.gradients.sums.is_cpu() && tables[shard.table].is_primary(tables[shard.table].shards[shard.shard]))
      values[shard.table] += sum_of_squares(shard.gradients.sums);
  values += squares;
  for (const auto& capture : captures)
    if (capture.used.defined() && capture.used.grad().defined() && capture.normaliser.defined() && capture.normaliser.is_cpu())
      values[0] += capture.normaliser.item<double>();
  values[1] = static_cast<double>(passes);
  std::uint64_t hash = 0;                                    // of which a double holds 53 bits
  for (const auto rate : rates) hash = mix64(hash + std::bit_cast<std::uint64_t>(rate));
  values[2 + rank] = static_cast<double>(hash >> 11);
  return sums;
}

/// What the sums over ranks say, with the squared norms of the dense gradients.
/// Errors: Error when no rank ran backward.
inline StepNorm read_step_sums(const at::Tensor& sums, std::span<const PlacedTable> tables, std::span<const DenseParameter> dense,
                               std::span<const double> squares_of_dense, bool divides) {
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
  for (std::size_t p = 0; p < dense.size(); ++p) add(squares_of_dense[p], dense[p].name);
  for (std::size_t t = 0; t < tables.size(); ++t) add(values[t], tables[t].description.name + ".weight");
  return norm;
}

/// Whether gradients that this rank sends are beyond the largest float16, and travel as such.
inline bool sends_beyond_half(const Routing& routing, const Capture& capture) {
  if (routing.exchange.backward_precision != CommType::fp16) return false;
  for (std::size_t r = 0; r < routing.routes.size(); ++r) {
    const auto& route = routing.routes[r];
    const auto gradient = gradient_of(capture, routing, route.slot);                         // [B, width] or [bags or ids, D]
    const auto sent = ops::zeros({own_vectors(capture, r), routing.shard_of(route).box.columns()}, routing.layout_of(route).dtype);
    pack_gradients(capture, routing, r, gradient, sent.scalar_type(), sent.mutable_data_ptr());   // [vectors, columns]
    if (sent.numel() > 0 && sent.abs().max().item<double>() > 65504) return true;
  }
  return false;
}

/// [3 W], each with 1 for this rank: that its gradients or its loss's divisor are not finite; that values came to it so, as float16; that
/// gradients which are finite leave it as float16 that are not.
[[gnu::cold]] inline at::Tensor not_finite_here(std::span<const DenseParameter> dense, std::span<const Capture> captures,
                                                const Routing& routing, int world_size) {
  const auto bad = [](const at::Tensor& tensor) { return tensor.defined() && !std::isfinite(sum_of_squares(tensor.contiguous())); };
  bool found = std::any_of(dense.begin(), dense.end(), [&](const auto& one) { return bad(one.parameter->tensor().grad()); });
  bool came = false, sent = false;
  for (const auto& capture : captures) {
    for (const auto* leaves : {&capture.leaves, &capture.slot_leaves})
      for (const auto& leaf : *leaves) {
        found = found || (leaf.defined() && bad(leaf.grad()));
        came = came || (routing.exchange.forward_precision == CommType::fp16 && bad(leaf.detach()));
      }
    found = found || (capture.normaliser.defined() && !std::isfinite(capture.normaliser.item<double>()));
    sent = sent || sends_beyond_half(routing, capture);
  }
  auto flags = ops::zeros({3 * world_size}, at::kDouble);                                    // [3 W]
  auto* flag = flags.mutable_data_ptr<double>() + routing.self;
  flag[0] = found, flag[world_size] = came, flag[2 * world_size] = sent && !found;
  return flags;
}

/// What the flags of all ranks [3 W] say of a gradient that is not finite, as the end of a sentence; nothing on one process.
[[gnu::cold]] inline std::string cause_of(const at::Tensor& flags) {
  const auto ranks = flags.numel() / 3;
  const auto set = [&](std::int64_t which) {
    std::vector<std::int64_t> found;
    for (std::int64_t rank = 0; rank < ranks; ++rank)
      if (flags.const_data_ptr<double>()[which * ranks + rank] > 0) found.push_back(rank);
    return found;
  };
  const auto own = set(0), came = set(1), sent = set(2);
  if (!came.empty())
    return concat(" because values are beyond the 65504 of fp16, as which they came to ranks ", came,
                  "; use CommType::bf16 for exchange.forward_precision");
  if (!own.empty()) return ranks == 1 ? "" : concat(" because of ranks ", own);
  return sent.empty() ? "" : concat(" because gradients are beyond the 65504 of fp16, as which they left ranks ", sent,
                                    "; use CommType::bf16 for exchange.backward_precision");
}

}  // namespace detail
}  // namespace rookery
