// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// gather_predictions: what a placed model predicts for the batches of all ranks, on every rank, in one order; gather_rows: the same for
// rows that a program has already.
//
//   const auto predictions = gather_predictions(model, batches);           // [N], rank by rank
//   const auto ids = gather_rows(topology, own_ids);                       // [N], the same rows
//
// Answers to the gathering of predictions that the-algorithm-ml and torchrec leave to their users.  Include cost: tensor.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

namespace detail {

/// Dtype and sizes of a row, as ranks tell each other; empty for a tensor that is not defined.
inline at::Tensor row_layout(const at::Tensor& rows) {
  if (!rows.defined()) return ops::empty({0}, at::kLong);
  check<ShapeError>(rows.dim() > 0, "gather_rows: a tensor of no dimension has no rows");
  auto layout = ops::empty({rows.dim()}, at::kLong);                                         // [dim]
  std::copy(rows.sizes().begin(), rows.sizes().end(), layout.mutable_data_ptr<std::int64_t>());
  *layout.mutable_data_ptr<std::int64_t>() = static_cast<std::int64_t>(rows.scalar_type());
  return layout;
}

/// No rows, of the layout that the ranks which have a tensor gave; float32 numbers where none has.
/// Errors: ShapeError where two ranks differ.
inline at::Tensor no_rows(const std::vector<at::Tensor>& layouts) {
  std::vector<at::Tensor> empty;
  std::size_t first = 0;
  for (std::size_t rank = 0; rank < layouts.size(); ++rank) {
    const auto* layout = layouts[rank].const_data_ptr<std::int64_t>();
    const auto size = layouts[rank].numel();
    if (size == 0) continue;
    std::vector<std::int64_t> shape(layout, layout + size);
    const auto dtype = static_cast<at::ScalarType>(shape[0]);
    shape[0] = 0;
    if (empty.empty()) first = rank;
    empty.push_back(ops::empty(shape, dtype));                                               // [0, ..]
    check<ShapeError>(empty[0].sizes() == empty.back().sizes() && dtype == empty[0].scalar_type(), "gather_rows: rows of ranks ", first,
                      " and ", rank, " are ", c10::toString(empty[0].scalar_type()), " ", empty[0].sizes().slice(1), " and ",
                      c10::toString(dtype), " ", empty.back().sizes().slice(1));
  }
  return empty.empty() ? ops::empty({0}) : empty[0];
}

}  // namespace detail

/// The rows of all ranks: those of rank 0 in their order, then those of rank 1, and so on; the same on every rank, on the host.
///
/// Shapes:  [n_r, ..] -> [sum(n_r), ..]; n_r may be 0, and a rank that has nothing may give an undefined tensor.
/// Dtypes:  any, the same on all ranks.
/// Errors:  ShapeError for rows that differ between ranks in dtype or in sizes behind the first, and for a tensor without dimensions.
/// Cost:    two all-gathers, of a few numbers and of the rows; all rows on every rank. On one process nothing.
/// Ranks:   all, in the same order.
template <concepts::Topology Topology> at::Tensor gather_rows(Topology& topology, const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  const auto none = detail::no_rows(all_gather_v(topology, detail::row_layout(rows)).wait());
  auto own = rows.defined() ? rows.detach().to(at::kCPU).contiguous() : none;                // [n_r, ..]
  return ops::cat(all_gather_v(topology, std::move(own)).wait());                            // [N, ..]
}

/// What the model predicts for every row of every rank's `range`: `logits` of its outputs, or `predictions` where they have no logits.
///
/// The order is rank by rank, of a rank batch by batch as `range` gives them, of a batch row by row; `gather_rows` of labels or row numbers
/// that a rank collects in the same loop order has it too. Nothing is captured and no weight changes.
/// Shapes:  -> [N] or [N, ..], N the rows of all ranks.
/// Errors:  those of the model and of gather_rows.
/// Cost:    one forward pass a batch; the predictions of all ranks on every rank.
/// Ranks:   all, in the same order, with the same number of batches, of which some may have no rows: `batches(topology, .., RunOut::drain)`
///          sees to it. Only of a model without lookups a rank may have fewer, or none.
template <class Model, class Range> at::Tensor gather_predictions(Model& model, Range&& range) {
  std::vector<at::Tensor> parts;
  for (auto& batch : range) {
    const auto output = model.predict(batch);
    if constexpr (requires { output.logits; }) parts.push_back(output.logits);
    else parts.push_back(output.predictions);
  }
  return gather_rows(model.topology(), parts.empty() ? at::Tensor{} : ops::cat(parts));
}

}  // namespace rookery
