// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// regroup: the columns of several KeyedTensors put together anew, a tensor for each group of keys.
//
//   RegroupPlan plan({{"user", "age"}, {"item"}}, {{8, 4}, {8}}, {{"user", "item"}, {"age"}});      // once
//   auto groups = plan(std::array{users, items});                                                  // [B, 16], [B, 4]
//
// Answers to KeyedTensor.regroup, regroup_as_dict and modules/regroup.py KTRegroupAsDict of torchrec, which differ in that a key of
// two inputs is taken from one of them in silence.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

/// `length` columns of an input that become columns of an output.
struct RegroupMove {
  std::int64_t in_tensor, out_tensor, in_start, out_start, length;
  bool operator==(const RegroupMove&) const = default;
};

/// Which columns go where, worked out once for inputs that have the same keys in every batch.
///
/// Shapes:  inputs [B, sum of their dims] each, outputs [B, sum of the dims of their group].
/// Errors:  IndexError for a key that no input has; ConfigError for one that two inputs have; ShapeError for inputs of other widths
///          than the plan's, or of different rows.
/// Cost:    one concatenation per output; none for an output that is one run of columns of one input, which is a view, and the input
///          itself where it is all of them. Gradients pass.
/// Source:  torchrec KTRegroupAsDict.
class RegroupPlan {
 public:
  using Names = std::vector<std::vector<std::string>>;

  /// Keys and widths of every input, and the keys of every group. A key may be in several groups, or in none.
  RegroupPlan(const Names& keys, const std::vector<std::vector<std::int64_t>>& dims, const Names& groups);
  RegroupPlan(std::span<const KeyedTensor> inputs, const Names& groups);

  const std::vector<std::int64_t>& input_widths() const { return input_widths_; }
  const std::vector<std::int64_t>& output_widths() const { return output_widths_; }
  /// A move for each key of each group, in their order.
  const std::vector<RegroupMove>& moves() const { return moves_; }

  /// A tensor for each group.
  std::vector<at::Tensor> operator()(std::span<const at::Tensor> inputs) const;
  std::vector<at::Tensor> operator()(std::span<const KeyedTensor> inputs) const;

 private:
  std::vector<std::int64_t> input_widths_, output_widths_;
  std::vector<RegroupMove> moves_;
};

namespace detail {

inline RegroupPlan::Names keys_of(std::span<const KeyedTensor> inputs) {
  RegroupPlan::Names keys;
  for (const auto& input : inputs) keys.push_back(input.keys());
  return keys;
}
inline std::vector<std::vector<std::int64_t>> dims_of(std::span<const KeyedTensor> inputs) {
  std::vector<std::vector<std::int64_t>> dims;
  for (const auto& input : inputs) dims.push_back(input.length_per_key());
  return dims;
}

}  // namespace detail

inline RegroupPlan::RegroupPlan(std::span<const KeyedTensor> inputs, const Names& groups)
    : RegroupPlan(detail::keys_of(inputs), detail::dims_of(inputs), groups) {}

inline RegroupPlan::RegroupPlan(const Names& keys, const std::vector<std::vector<std::int64_t>>& dims, const Names& groups) {
  check<ShapeError>(keys.size() == dims.size(), "RegroupPlan: keys of ", keys.size(), " inputs and dims of ", dims.size());
  std::vector<std::string> names;                              // of all inputs, beside where their columns are
  std::vector<RegroupMove> columns;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    check<ShapeError>(keys[i].size() == dims[i].size(), "RegroupPlan: input ", i, " has ", keys[i].size(), " keys and ", dims[i].size(),
                      " dims");
    input_widths_.push_back(0);
    for (std::size_t k = 0; k < keys[i].size(); ++k) {
      for (std::size_t seen = 0; seen < names.size(); ++seen)
        check<ConfigError>(names[seen] != keys[i][k], "RegroupPlan: key '", keys[i][k], "' is in input ", columns[seen].in_tensor,
                           " and again in input ", i);
      names.push_back(keys[i][k]);
      columns.push_back({static_cast<std::int64_t>(i), 0, input_widths_[i], 0, dims[i][k]});
      input_widths_[i] += dims[i][k];
    }
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    output_widths_.push_back(0);
    for (const auto& key : groups[g]) {
      const auto found = std::find(names.begin(), names.end(), key);
      check<IndexError>(found != names.end(), "RegroupPlan: no key '", key, "'; keys are ", names);
      auto move = columns[static_cast<std::size_t>(found - names.begin())];
      move.out_tensor = static_cast<std::int64_t>(g);
      move.out_start = output_widths_[g];
      output_widths_[g] += move.length;
      moves_.push_back(move);
    }
  }
}

inline std::vector<at::Tensor> RegroupPlan::operator()(std::span<const at::Tensor> inputs) const {
  check<ShapeError>(inputs.size() == input_widths_.size(), "RegroupPlan: ", inputs.size(), " inputs; it was made for ",
                    input_widths_.size());
  for (std::size_t i = 0; i < inputs.size(); ++i)
    check<ShapeError>(inputs[i].dim() == 2 && inputs[i].size(1) == input_widths_[i] && inputs[i].size(0) == inputs[0].size(0),
                      "RegroupPlan: input ", i, " has shape ", inputs[i].sizes(), "; it was made for ", input_widths_[i],
                      " columns, and rows as those of the first");
  std::vector<at::Tensor> outputs;
  auto move = moves_.begin();
  for (std::size_t g = 0; g < output_widths_.size(); ++g) {
    std::vector<at::Tensor> pieces;
    while (move != moves_.end() && move->out_tensor == static_cast<std::int64_t>(g)) {
      const auto& input = inputs[static_cast<std::size_t>(move->in_tensor)];
      const auto first = *move;
      auto end = first.in_start;                               // of a run of columns that lie side by side in the input, too
      const auto goes_on = [&] {
        return move != moves_.end() && move->out_tensor == first.out_tensor && move->in_tensor == first.in_tensor && move->in_start == end;
      };
      for (; goes_on(); ++move) end += move->length;
      const auto width = end - first.in_start;
      pieces.push_back(width == input.size(1) ? input : input.narrow(1, first.in_start, width));   // [B, width]
    }
    if (pieces.empty()) pieces.push_back(inputs.empty() ? ops::empty({0, 0}) : inputs[0].narrow(1, 0, 0));
    outputs.push_back(pieces.size() == 1 ? pieces[0] : ops::cat(pieces, 1));                 // [B, output width]
  }
  return outputs;
}

inline std::vector<at::Tensor> RegroupPlan::operator()(std::span<const KeyedTensor> inputs) const {
  std::vector<at::Tensor> values;
  for (const auto& input : inputs) values.push_back(input.values());
  return (*this)(std::span<const at::Tensor>(values));
}

/// A tensor [B, sum(D)] for each group of keys. Where batches have the same keys, keep a RegroupPlan.
inline std::vector<at::Tensor> regroup(std::span<const KeyedTensor> inputs, const RegroupPlan::Names& groups) {
  return RegroupPlan(inputs, groups)(inputs);
}

/// The same, each tensor with its group's name. Errors: ShapeError for another number of names than groups.
inline std::vector<std::pair<std::string, at::Tensor>> regroup_as_dict(std::span<const KeyedTensor> inputs,
                                                                       const RegroupPlan::Names& groups,
                                                                       const std::vector<std::string>& names) {
  check<ShapeError>(groups.size() == names.size(), "regroup_as_dict: ", names.size(), " names for ", groups.size(), " groups");
  auto tensors = regroup(inputs, groups);
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (std::size_t g = 0; g < names.size(); ++g) named.emplace_back(names[g], std::move(tensors[g]));
  return named;
}

}  // namespace rookery
