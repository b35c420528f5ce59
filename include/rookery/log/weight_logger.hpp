// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// WeightLogger<Reducer>: numbers about the weights of a placed model, each parameter once, tables included.
//
//   WeightLogger<Norms> norms{model};                          // once: which parameter is logged, and how
//   log(step.count(), norms(model));                           // {"model/norm/over.layers.0.weight": .., ..}
//
// Answers to the-algorithm-ml's weights_to_log; differs: dense parameters are not doubled, tables are there, shards give the number
// of the whole parameter, and it works on one process too.  Include cost: tensor.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/log/logged_matrices.hpp>
#include <rookery/log/per_parameter.hpp>
#include <rookery/log/reductions.hpp>

namespace rookery {

struct WeightLoggerOptions {
  std::int64_t rows_per_exchange = 1 << 20;      // row sums, 8 bytes each, that one all-reduce carries for tables split by columns
  std::int64_t sample_rows = 0;  // of a larger table only so many rows are read, the same ones each time and under every plan; 0: all
  std::uint64_t sample_seed = 0;
};

namespace detail {

/// Reductions of a placed model's parameters, or of samples of its tables.
template <class Model> Reductions reductions_of(Model& model, const WeightLoggerOptions& options) {
  return {sampled(logged_matrices(model), options.sample_rows, options.sample_seed), options.rows_per_exchange};
}

}  // namespace detail

/// Chosen when a reducer is incomplete: one error that says what to write.
template <class Reducer> class WeightLogger {
  using Missing = detail::MissingOfReducer;
  static constexpr auto missing = detail::LogRules<Reducer>::missing();
  static_assert(missing != Missing::name,
                "WeightLogger<Reducer>: write `static constexpr std::string_view name = \"..\"` on the reducer; "
                "see docs/concepts.md#reducer");
  static_assert(missing != Missing::input,
                "WeightLogger<Reducer>: write `static constexpr auto input = ReducerInput::elements` (or row_squares) and "
                "`static constexpr std::int64_t partial_size = 1` on the reducer; see docs/concepts.md#reducer");
  static_assert(missing != Missing::partial,
                "WeightLogger<Reducer>: write `at::Tensor partial(const at::Tensor& chunk) const` on the reducer; "
                "see docs/concepts.md#reducer");
  static_assert(missing != Missing::merge,
                "WeightLogger<Reducer>: write `at::Tensor merge(const at::Tensor& partials) const` on the reducer; a number that parts "
                "cannot be merged to, such as a median, is no reducer; see docs/concepts.md#reducer");
  static_assert(missing != Missing::finish,
                "WeightLogger<Reducer>: write `double finish(std::span<const double> partial, std::int64_t count) const` on the reducer; "
                "see docs/concepts.md#reducer");
  static_assert(missing != Missing::no_data,
                "WeightLogger<Reducer>: a reducer has no data members, so that its name says what it computes; "
                "see docs/concepts.md#reducer");

 public:
  template <class Model> explicit WeightLogger(Model&, WeightLoggerOptions = {}) {}
  template <class Model> LogValues operator()(Model&) { return {}; }
};

/// Logs what `Reducer`, one for all parameters or a PerParameter, says, under `model/<reducer>/<parameter>`.
///
/// Names:   those of the model's members, as "over.layers.0.weight"; of a table "user.embedding_bags.user_id.weight".
/// Errors:  IndexError for a pattern that matches no parameter (an earlier one may take all that it matches); Error for another model
///          than the one it was made for.
/// Cost:    one pass over the local weights in float64, some hundred KB a thread; one all-reduce and one transfer to the host. Tables
///          whose columns are split over ranks take one more all-reduce for each `rows_per_exchange` of their rows after the first.
/// Ranks:   all construct and call, in the same order; all get the same values.
template <class Reducer>
  requires(detail::LogRules<Reducer>::missing() == detail::MissingOfReducer::nothing)
class WeightLogger<Reducer> {
  using Rules = detail::LogRules<Reducer>;

 public:
  template <class Model>
  explicit WeightLogger(Model& model, WeightLoggerOptions options = {})
      : model_(&model), reductions_(detail::reductions_of(model, options)) {
    choose();
  }

  /// The names that are logged, in order.
  const std::vector<std::string>& keys() const { return keys_; }

  /// The values now; empty when no parameter is logged. NaN for a parameter without elements.
  template <class Model> LogValues operator()(Model& model) {
    check<Error>(&model == model_, "WeightLogger: called with another model than it was made for");
    reductions_.run(model.topology());
    return values();
  }

 private:
  /// Finds the reducer of each matrix.
  void choose() {
    const auto& matrices = reductions_.matrices();
    std::vector<std::string> names;
    for (const auto& one : matrices) names.push_back(one.name);
    detail::check_patterns(Rules::patterns, std::move(names));
    for (std::size_t m = 0; m < matrices.size(); ++m) {
      const auto rule = Rules::match(matrices[m].name);
      if (rule == Rules::none) continue;
      const auto& reducer = *Rules::reducers()[rule];
      reductions_.add(m, reducer);
      keys_.push_back(concat("model/", reducer.name, "/", matrices[m].name));
    }
  }
  LogValues values() const {
    LogValues values;
    for (std::size_t i = 0; i < keys_.size(); ++i) values.add(keys_[i], reductions_.value(i));
    return values;
  }

  const void* model_;
  detail::Reductions reductions_;
  std::vector<std::string> keys_;
};

}  // namespace rookery
