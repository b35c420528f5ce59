// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MultiTaskBce: binary cross entropy of several tasks at once, each bound to its label column by name.
//
// Answers to the-algorithm-ml core/losses.py build_multi_task_loss, which binds by position: with its shipped configuration every task of
// the ranker trains on another task's label. Here a task without a label column is an error when the loss is made.
// Include cost: tensor.

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/loss/rows.hpp>
#include <rookery/sparse/validate.hpp>

namespace rookery {

/// One task, called as its column of labels is: {.name = "like", .pos_weight = 2.0}.
struct Task {
  std::string name;
  double pos_weight = 1;             // times the loss of positives
  double weight = 1;                 // times the loss of the task
};

/// What the sum over tasks is divided by, besides the rows: the number of tasks, or nothing.
enum class OverTasks { mean, sum };

struct MultiTaskOptions {
  OverTasks over_tasks = OverTasks::mean;
  DivideBy divide_by = DivideBy::rows;       // weights: the sum of the weights of all labels that tasks use
};

/// The sum over tasks t and rows of weight_t w (-p_t y log s(x) - (1 - y) log(1 - s(x))), of `output.logits` against `batch.labels`.
/// Labels are weighted by `batch.weights` where the batch has them and they are defined.
///
/// Made from the tasks, in the order of the model's logits, and the names of the batch's label columns, in their order; columns that no
/// task asks for are left alone.
/// Shapes:  logits [B, tasks], labels [B, columns], weights [B, columns] or [B], which hold for every task of the row -> [].
/// Errors:  ConfigError, when it is made, for no tasks, a name given twice, a task without a label column, and a negative weight;
///          ShapeError for logits or labels of other widths; DataError for labels and weights as Bce.
class MultiTaskBce {
 public:
  MultiTaskBce(std::vector<Task> tasks, const std::vector<std::string>& label_columns, MultiTaskOptions options = {})
      : tasks_(std::move(tasks)), label_columns_(static_cast<std::int64_t>(label_columns.size())), options_(options) {
    check<ConfigError>(!tasks_.empty(), "MultiTaskBce: no tasks");
    for (std::size_t c = 0; c < label_columns.size(); ++c)
      check<ConfigError>(std::count(label_columns.begin(), label_columns.end(), label_columns[c]) == 1, "MultiTaskBce: label column '",
                         label_columns[c], "' is given twice");
    std::vector<double> pos_weights, weights;
    std::vector<std::int64_t> columns;
    for (const auto& task : tasks_) {
      const auto named = std::count_if(tasks_.begin(), tasks_.end(), [&](const Task& one) { return one.name == task.name; });
      check<ConfigError>(named == 1, "MultiTaskBce: task '", task.name, "' is given twice");
      const auto column = std::find(label_columns.begin(), label_columns.end(), task.name);
      check<ConfigError>(column != label_columns.end(), "MultiTaskBce: task '", task.name, "' has no label column; there are ",
                         label_columns);
      check<ConfigError>(std::isfinite(task.weight) && task.weight >= 0 && std::isfinite(task.pos_weight) && task.pos_weight >= 0,
                         "MultiTaskBce: task '", task.name, "' has weight ", task.weight, " and pos_weight ", task.pos_weight,
                         "; neither may be negative");
      columns.push_back(column - label_columns.begin());
      pos_weights.push_back(task.pos_weight);
      weights.push_back(task.weight);
    }
    columns_ = detail::host_tensor(columns);                                           // [tasks]
    pos_weights_ = detail::host_tensor(pos_weights);                                     // [tasks]
    weights_ = detail::host_tensor(weights);                                             // [tasks]
  }

  template <class Output, class Batch> at::Tensor operator()(const Output& output, const Batch& batch) const {
    return per_task(output, batch).sum();                                                    // []
  }

  /// The sum of each task, times its weight -> [tasks]. Divided by rows it is what logs call loss/{task}.
  template <class Output, class Batch> at::Tensor per_task(const Output& output, const Batch& batch) const {
    const auto x = detail::logits_of_output(output);                                         // [B, tasks]
    const auto given = detail::labels_of_batch(batch);                                       // [B, columns]
    check<ShapeError>(x.dim() == 2 && x.size(1) == static_cast<std::int64_t>(tasks_.size()), "MultiTaskBce: logits have shape ", x.sizes(),
                      "; they must be [B, ", tasks_.size(), "], a column for each task");
    check_labels(given);
    check<ShapeError>(x.size(0) == given.size(0), "MultiTaskBce: logits have shape ", x.sizes(), " and labels ", given.sizes());
    const auto labels = of_tasks(given).to(x.scalar_type());                                 // [B, tasks]
    detail::check_probabilities("MultiTaskBce", labels);
    const auto weights = of_weights(batch, x.scalar_type());                                 // [B, tasks] or undefined
    if (weights.defined()) detail::check_row_weights("MultiTaskBce", weights);
    const auto losses = ops::binary_cross_entropy_with_logits(x, labels, weights, pos_weights_.to(x.options().requires_grad(false)),
                                                             at::Reduction::None);           // [B, tasks]
    return losses.sum(0).mul(weights_.to(x.options().requires_grad(false)));                 // [tasks]
  }

  template <class Batch> at::Tensor normaliser(const Batch& batch) const {
    const auto labels = detail::labels_of_batch(batch);                                      // [B, columns]
    check_labels(labels);
    const auto count = static_cast<double>(tasks_.size());
    const Used used{of_tasks(labels), of_weights(batch, at::kDouble)};
    const auto all = detail::divisor("MultiTaskBce", used, options_.divide_by);              // [] of all tasks together
    return options_.over_tasks == OverTasks::mean ? all : all.div(count);                    // []
  }

  const std::vector<Task>& tasks() const { return tasks_; }

 private:
  /// What tasks use of a batch.
  struct Used {
    at::Tensor labels, weights;                                                              // [B, tasks]
  };
  void check_labels(const at::Tensor& labels) const {
    check<ShapeError>(labels.dim() == 2 && labels.size(1) == label_columns_, "MultiTaskBce: labels have shape ", labels.sizes(),
                      "; they must be [B, ", label_columns_, "], a column for each name");
  }
  at::Tensor of_tasks(const at::Tensor& columns) const { return columns.index_select(1, columns_.to(columns.device())); }   // [B, tasks]
  template <class Batch> at::Tensor of_weights(const Batch& batch, at::ScalarType dtype) const {
    const auto weights = detail::unchecked_weights_of("MultiTaskBce", batch, dtype);         // [B, columns] or undefined
    return weights.defined() ? of_tasks(weights) : weights;                                  // [B, tasks] or undefined
  }

  std::vector<Task> tasks_;
  std::int64_t label_columns_;
  MultiTaskOptions options_;
  at::Tensor columns_, pos_weights_, weights_;                                               // [tasks]
};

}  // namespace rookery
