// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// log_ebc_norms: the mean length of the rows of embedding tables, on each rank and in all.
//
// Answers to common/log_weights.py log_ebc_norms of the-algorithm-ml; differs: every row counts, not a sample drawn from the trainer's
// own random numbers; a row split by columns has its true norm; a rank without rows has no entry instead of -1 or NaN; a misspelt key
// is an error; CPU and one process will do.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/log/log_values.hpp>
#include <rookery/log/logged_matrices.hpp>
#include <rookery/log/reducers.hpp>
#include <rookery/log/reductions.hpp>
#include <rookery/log/weight_logger.hpp>

namespace rookery {

/// For each key, a table's full name such as "user.embedding_bags.user_id.weight": `<key>-norm-<rank>`, the mean L2 norm of the rows
/// that a rank holds, whole or in part, for each rank that holds any; then `<key>-norm`, the mean over all rows.
///
/// Errors:  IndexError for a key that names no table, with the names there are.
/// Cost:    as WeightLogger's: one all-reduce for all keys.
/// Ranks:   all, with the same keys; all get the same values.
template <class Model>
LogValues log_ebc_norms(Model& model, const std::vector<std::string>& keys, WeightLoggerOptions options = {}) {
  auto reductions = detail::reductions_of(model, options);
  for (const auto& key : keys)
    reductions.add(detail::find_matrix(reductions.matrices(), key, "log_ebc_norms", true), detail::functions_of<MeanRowNorm>);
  reductions.run(model.topology());
  LogValues values;
  for (std::size_t k = 0; k < keys.size(); ++k) {
    for (int rank = 0; rank < model.topology().world_size(); ++rank) {
      bool present = false;
      const double norm = reductions.value(k, [&](const detail::LoggedMatrix& table, const detail::LoggedPiece& band) {
        const bool holds = std::ranges::any_of(band.shards, [&](std::size_t s) { return table.shards[s].rank == rank; });
        present = present || holds;
        return holds;
      });
      if (present) values.add(concat(keys[k], "-norm-", rank), norm);
    }
    values.add(keys[k] + "-norm", reductions.value(k));
  }
  return values;
}

}  // namespace rookery
