// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Capture: one forward pass as far as its step needs it, and the batch that it began with, checked.
//
// Everything later reads ids through plain pointers into tensors that the capture keeps alive.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/kernels/cpu/vector.hpp>
#include <rookery/sharding/routing.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery::detail {

/// Bags of ids as plain pointers into tensors that a Capture keeps alive.
struct Bags {
  const std::int64_t* ids = nullptr;
  const std::int64_t* offsets = nullptr;     // [bags + 1]; id i of the task is ids[i - offsets[0]]
  const double* weights = nullptr;
  std::int64_t bags = 0;
  bool rows = false;                         // the rows are wanted one by one
  std::int64_t count() const { return bags == 0 ? 0 : offsets[bags] - offsets[0]; }
};

/// What this rank asked of a shard: the sums of its bags there, or rows that are given to its ids here.
struct Request {
  bool rows = false;
  std::int64_t vectors = 0;                                  // that come back
  Bags bags;                                                 // rows: which of them each id has
  std::vector<std::int64_t> positions;                       // by_rows: which of the slot's ids these are
  kernels::Transposed repeats;                               // rows: which of these ids each row is for
};

/// One forward pass, as far as its step needs it.
struct Capture {
  std::vector<char> by_rows;                                 // per lookup: rows are given to the model unpooled
  std::vector<char> by_slot;                                 // per lookup: each slot has a leaf of its own; so has all that is by rows
  std::vector<std::int64_t> rows;                            // per lookup: rows of its output, of this rank
  std::vector<Bags> own;                                     // per slot: this rank's bags
  std::vector<at::Tensor> kept;                              // per slot: which ids were good, if not all
  std::vector<std::int64_t> bad;                             // per slot: how many ids were not
  std::vector<std::vector<double>> divisors;                 // per slot: of each bag, for mean pooling; else empty
  std::vector<Request> requests;                             // per route
  std::vector<std::vector<Bags>> routed;                     // per route of this rank, per source rank; ids are rows of the shard
  std::vector<std::vector<Bags>> raw;                        // the same before a vocabulary gave rows to ids; empty where none did
  std::vector<at::Tensor> leaves;                            // per lookup: the pooled values given to the model [B, width]
  std::vector<at::Tensor> slot_leaves;                       // per slot, by slot: [bags or ids, D]
  at::Tensor used;                                           // [] a leaf: has a gradient once the pass's loss was back-propagated
  at::Tensor normaliser;                                     // [] of this rank
  std::int64_t replica_bytes = 0;                            // of rows of copied tables that ids name, added up over all ranks
  std::vector<at::Tensor> alive;                             // what the pointers point into

  const std::int64_t* keep(const std::vector<std::int64_t>& numbers) {
    alive.push_back(host_tensor(numbers));
    return alive.back().const_data_ptr<std::int64_t>();
  }
  const double* keep(const std::vector<double>& numbers) {
    alive.push_back(host_tensor(numbers));
    return alive.back().const_data_ptr<double>();
  }
};

/// The first id of `bags` that the table has no row for, or their number. A table of managed collision has one for any id.
inline std::int64_t first_bad_id(const Bags& bags, const TableDescription& table) {
  if (table.managed_collision) return bags.count();
  return std::find_if(bags.ids, bags.ids + bags.count(), [&](std::int64_t id) { return !table.has_row(id); }) - bags.ids;
}

/// Leaves bad ids out of a slot's bags, or the bags that hold one, and counts them.
inline void leave_out_bad_ids(Capture& capture, std::size_t slot, const TableDescription& table, BadIds policy) {
  auto& bags = capture.own[slot];
  std::vector<std::int64_t> ids, offsets{0}, kept;
  std::vector<double> weights;
  for (std::int64_t b = 0; b < bags.bags; ++b) {
    const auto begin = bags.offsets[b] - bags.offsets[0], end = bags.offsets[b + 1] - bags.offsets[0];
    const auto bad = std::count_if(bags.ids + begin, bags.ids + end, [&](std::int64_t id) { return !table.has_row(id); });
    capture.bad[slot] += bad;
    for (auto i = begin; i < end && (bad == 0 || policy == BadIds::drop); ++i) {
      if (!table.has_row(bags.ids[i])) continue;
      ids.push_back(bags.ids[i]);
      kept.push_back(i);
      if (bags.weights) weights.push_back(bags.weights[i]);
    }
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
  Bags good{.ids = capture.keep(ids), .offsets = capture.keep(offsets), .bags = bags.bags};
  capture.keep(kept);
  capture.kept[slot] = capture.alive.back();                                                 // [good ids]
  if (bags.weights) good.weights = capture.keep(weights);
  bags = good;
}

/// What a mean divides each bag's sum by: ids, or their weights.
inline std::vector<double> mean_divisors(const Bags& bags) {
  std::vector<double> divisors;
  for (std::int64_t b = 0; b < bags.bags; ++b) {
    double divisor = bags.weights ? 0 : static_cast<double>(bags.offsets[b + 1] - bags.offsets[b]);
    for (auto i = bags.offsets[b]; bags.weights && i < bags.offsets[b + 1]; ++i) divisor += bags.weights[i - bags.offsets[0]];
    divisors.push_back(divisor);
  }
  return divisors;
}

/// What a sentence calls a lookup; a collection that is placed alone has no name.
inline std::string lookup_name(const LookupLayout& layout) {
  return layout.collection.empty() ? "this collection" : concat("a lookup of '", layout.collection, "'");
}

/// Whether bags are summed where their weights are: these require grad, or only they are on a device.
inline bool has_weights_there(const KeyedJaggedTensor& input) {
  return input.weights().requires_grad() || (!input.weights().is_cpu() && input.values().is_cpu());
}

/// Numbers on the host, side by side, as int64 or float64; copied if `copy` or if they are of another dtype.
inline at::Tensor host_numbers(const at::Tensor& tensor, at::ScalarType dtype, bool copy) {
  if (!copy && tensor.is_cpu() && tensor.scalar_type() == dtype && tensor.is_contiguous()) return tensor;
  return tensor.detach().to(at::kCPU, dtype, /*non_blocking=*/false, copy).contiguous();     // [N]
}

/// The ids of a slot: where they come from, where they are kept, and whether each has a row.
struct SlotIds {
  const void* from = nullptr;
  bool is_int = false;                       // int32, else int64
  std::int64_t* kept = nullptr;              // null: they are read where they come from
  std::int64_t count = 0, rows = 0;          // rows 0: any id has one
  bool all_good = true;

  void keep_and_check() { is_int ? keep_and_check_as<std::int32_t>() : keep_and_check_as<std::int64_t>(); }

 private:
  /// An id has a row if neither it nor what is left from it to the last row is negative: the signs of all are gathered in one number.
  template <class Id> void keep_and_check_as() {
    using Ids = kernels::detail::Vector<Id, 2>;
    using Wide = kernels::detail::Vector<std::int64_t, 2>;
    const auto* ids = static_cast<const Id*>(from);
    const std::int64_t last = rows - 1;
    Wide signs{};
    std::int64_t rest = 0, i = 0;
    for (; i + 2 <= count; i += 2) {
      Ids two;
      __builtin_memcpy(&two, ids + i, sizeof two);
      const Wide wide = __builtin_convertvector(two, Wide);
      if (kept) __builtin_memcpy(kept + i, &wide, sizeof wide);
      signs |= wide | (last - wide);
    }
    for (; i < count; ++i) {
      const std::int64_t id = ids[i];
      if (kept) kept[i] = id;
      rest |= id | static_cast<std::int64_t>(static_cast<std::uint64_t>(last) - static_cast<std::uint64_t>(id));
    }
    all_good = rows == 0 || (rest | signs[0] | signs[1]) >= 0;
  }
};

/// Where the ids of every slot are for as long as the capture lasts. Copied when a step will read them again (`keeping`), so that the
/// caller may reuse its batch.
inline std::vector<SlotIds> ids_of_slots(const Routing& routing, std::span<const KeyedJaggedTensor> inputs, bool keeping,
                                         std::vector<at::Tensor>& alive) {
  std::vector<SlotIds> slots(routing.slots.size());
  std::vector<at::Tensor> host(inputs.size());                                               // each [N]
  std::int64_t total = 0;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const auto& slot = routing.slots[s];
    const auto& input = inputs[slot.lookup];
    const auto& table = routing.tables[slot.table].description;
    check<IndexError>(input.contains(slot.feature), "feature '", slot.feature, "' of table '", table.name,
                      "': the batch has no such key; keys are ", input.keys());
    const auto f = input.index_of(slot.feature);
    auto& values = host[slot.lookup];
    if (!values.defined()) {
      values = input.values().is_cpu() ? input.values().contiguous() : input.values().cpu();
      alive.push_back(values);
    }
    auto& one = slots[s];
    one.is_int = values.scalar_type() == at::kInt;
    one.from = static_cast<const std::byte*>(values.const_data_ptr()) +
               input.offset_per_key()[f] * static_cast<std::int64_t>(values.element_size());
    one.count = input.length_per_key()[f];
    one.rows = table.managed_collision ? 0 : table.num_embeddings;
    total += one.count;
  }
  const auto copied = ops::empty({total}, at::kLong);                                        // [ids of all slots]
  auto* next = copied.mutable_data_ptr<std::int64_t>();
  for (auto& one : slots) {
    if (keeping || one.is_int) one.kept = next;
    next += one.count;
  }
  alive.push_back(copied);
  constexpr std::int64_t worth_a_region = 16384;
  const auto count = static_cast<std::int64_t>(slots.size());
  parallel(count, total < worth_a_region ? count : 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto s = begin; s < end; ++s) slots[static_cast<std::size_t>(s)].keep_and_check();
  });
  return slots;
}

/// This rank's bags of every slot, checked.
/// Errors: IndexError naming feature, table, row, position, id and table size; ShapeError on a different weightedness.
inline Capture own_bags(const Routing& routing, std::span<const KeyedJaggedTensor> inputs, bool keeping) {
  Capture capture;
  std::vector<at::Tensor> weights(inputs.size());                                            // each [N]
  for (std::size_t l = 0; l < inputs.size(); ++l) {
    const auto& layout = routing.lookups[l];
    if (inputs[l].is_weighted() != layout.is_weighted)
      fail<ShapeError>(lookup_name(layout), " is given ids ", inputs[l].is_weighted() ? "with" : "without",
                       " weights, but the collection has is_weighted = ", layout.is_weighted);
    capture.rows.push_back(inputs[l].stride());
    capture.by_rows.push_back(layout.is_sequence || (layout.is_weighted && has_weights_there(inputs[l])));
    capture.by_slot.push_back(capture.by_rows.back() || inputs[l].variable_stride_per_key());
    if (inputs[l].variable_stride_per_key() && !inputs[l].has_inverse_indices() && !layout.is_sequence)
      fail<ShapeError>(lookup_name(layout), " is given features of ", inputs[l].stride_per_key(),
                       " rows; pooled features of different rows need inverse indices");
    capture.alive.push_back(inputs[l].offsets());
    if (layout.is_weighted && (inputs[l].weights().is_cpu() || !capture.by_rows[l])) {       // else read where rows are pooled
      weights[l] = host_numbers(inputs[l].weights(), at::kDouble, keeping);
      capture.alive.push_back(weights[l]);
    }
  }
  capture.kept.resize(routing.slots.size());
  capture.bad.resize(routing.slots.size());
  capture.divisors.resize(routing.slots.size());
  capture.own.reserve(routing.slots.size());
  const auto ids = ids_of_slots(routing, inputs, keeping, capture.alive);
  for (std::size_t s = 0; s < routing.slots.size(); ++s) {
    const auto& slot = routing.slots[s];
    const auto& input = inputs[slot.lookup];
    const auto& table = routing.tables[slot.table].description;
    const auto f = input.index_of(slot.feature);
    const Bags bags{.ids = ids[s].kept ? ids[s].kept : static_cast<const std::int64_t*>(ids[s].from),
                    .offsets = input.offsets().const_data_ptr<std::int64_t>() + input.lengths_offset_per_key()[f],
                    .weights = weights[slot.lookup].defined() ? weights[slot.lookup].const_data_ptr<double>() + input.offset_per_key()[f]
                                                              : nullptr,
                    .bags = input.stride_per_key()[f]};
    capture.own.push_back(bags);
    if (!ids[s].all_good) {
      const auto i = first_bad_id(bags, table);
      const auto row = std::upper_bound(bags.offsets, bags.offsets + bags.bags + 1, bags.offsets[0] + i) - bags.offsets - 1;
      check<IndexError>(routing.lookups[slot.lookup].bad_ids != BadIds::refuse, "feature '", slot.feature, "' of table '", table.name,
                        "': id ", bags.ids[i], " at position ", bags.offsets[0] + i - bags.offsets[row], " of row ", row,
                        "; the table has ", table.num_embeddings, " rows");
      leave_out_bad_ids(capture, s, table, routing.lookups[slot.lookup].bad_ids);
    }
    if (table.pooling == PoolingType::mean) capture.divisors[s] = mean_divisors(capture.own[s]);
  }
  capture.requests.resize(routing.routes.size());
  return capture;
}

}  // namespace rookery::detail
