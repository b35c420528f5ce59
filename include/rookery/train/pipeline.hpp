// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// pipelined<SparseDist>(model, source): a loop over batches in which the input of the next one is on its way while one is trained on.
//
//   for (const auto& batch : pipelined<SparseDist>(model, reader)) {
//     auto [loss, output] = model(batch);
//     loss.backward();
//     step();
//   }
//
// A model says what it looks up as a value (embedding/lookups.hpp), so nothing is traced and nothing in the loop changes; the result is
// the plain loop's to the bit.  Answers to torchrec's TrainPipelineSparseDist.  Include cost: none.

#include <cstddef>
#include <iterator>
#include <optional>
#include <type_traits>
#include <utility>

#include <rookery/data/batches.hpp>

namespace rookery {

/// While one batch is computed, the ids of the next are exchanged: their counts beside its lookups, the ids beside its forward and
/// backward pass and its step. On a device the tensors of the next batch are copied there as well.
struct SparseDist {
  template <class Model, class Batch> static void begin(Model& model, const Batch& batch) { model.begin(batch); }
  template <class Model, class Batch> static void forget(Model& model, const Batch& batch) noexcept { model.forget(batch); }
};

/// The batches of `source`, each begun one ahead. A batch is the loop's until its next turn; it is const, because its ids have left.
///
/// The model outlives the loop, and so does a source that is given as an lvalue; that source is drawn one batch further than the loop has
/// come, and a loop that is left early leaves that batch unused. Batches that are not passed to the model cost their exchange. A pass of
/// another batch, such as an evaluation, may be anywhere in the loop.
/// Errors:  what is wrong with the ids of a batch is thrown a turn earlier than in the plain loop, before the update of the batch before.
/// Cost:    no collective more than the plain loop's. Memory of one more batch and its ids.
/// Ranks:   all, in the same order, with the same number of batches: batches() sees to that.
template <class Schedule, class Model, class Source> class Pipelined {
 public:
  using Batch = BatchOf<std::remove_reference_t<Source>>;

  Pipelined(Model& model, Source&& source) : model_(model), source_(std::forward<Source>(source)) {}
  Pipelined(const Pipelined&) = delete;
  Pipelined& operator=(const Pipelined&) = delete;
  ~Pipelined() {
    for (const auto& batch : batches_)
      if (batch) Schedule::forget(model_, *batch);
  }

  /// Of the one loop that there is.
  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit Iterator(Pipelined& loop) : loop_(&loop) {}
    const Batch& operator*() const { return *loop_->current(); }
    Iterator& operator++() {
      loop_->turn();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& iterator, std::default_sentinel_t) { return !iterator.loop_->current(); }

   private:
    Pipelined* loop_;
  };

  Iterator begin() {
    if (!std::exchange(has_begun_, true)) {
      draw(current_);
      if (batches_[current_]) draw(1 - current_);
    }
    return Iterator{*this};
  }
  std::default_sentinel_t end() const { return {}; }
  /// The batch of this turn; none at the end.
  const std::optional<Batch>& current() const { return batches_[current_]; }

 private:
  void draw(std::size_t place) {
    batches_[place] = source_.next();
    if (batches_[place]) Schedule::begin(model_, *batches_[place]);
  }
  void turn() {
    Schedule::forget(model_, *batches_[current_]);           // if it was not passed
    batches_[current_].reset();
    current_ = 1 - current_;
    if (batches_[current_]) draw(1 - current_);
  }

  Model& model_;
  Source source_;                                            // a reference where an lvalue was given
  std::optional<Batch> batches_[2];                          // stay where they are while they are begun
  std::size_t current_ = 0;
  bool has_begun_ = false;
};

/// The batches of `source` under a schedule.
template <class Schedule, class Model, class Source>
  requires BatchSource<std::remove_reference_t<Source>>
Pipelined<Schedule, Model, Source> pipelined(Model& model, Source&& source) {
  return {model, std::forward<Source>(source)};
}

}  // namespace rookery
