// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The parameters of a placed model as loggers see them: matrices with their shards, dense parameters and tables alike.
//
// A dense parameter is a matrix with one shard; which rank it counts for goes round, so that ranks share the work.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/members.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parameter.hpp>
#include <rookery/core/random.hpp>
#include <rookery/embedding/table_collection.hpp>
#include <rookery/embedding/lookups.hpp>
#include <rookery/sharding/placement.hpp>

namespace rookery::detail {

struct MatrixShard {
  ShardBox box;
  int rank = 0;
  at::Tensor values;                     // [rows, columns] on that rank, undefined elsewhere
};

struct LoggedMatrix {
  std::string name;                      // "over.layers.0.bias", "user.embedding_bags.user_id.weight"
  bool is_table = false;
  at::ScalarType dtype = at::kFloat;
  std::int64_t rows = 0, columns = 0;    // [size(0), the rest] of a dense parameter, [1, size] of a vector
  std::vector<MatrixShard> shards;       // empty when the matrix is

  /// Of a sampled table: where the rows of each shard are read before a run, and which; `values` are those rows during a run.
  struct Source {
    at::Tensor weight, rows;             // [shard's rows, columns] and [rows read], on that rank
  };
  std::vector<Source> sources{};
};

/// The parameters of a placed model's struct, each once, in member order; the same on every rank but for `values`.
template <class Model>
std::vector<LoggedMatrix> matrices_of(Model& model, const std::vector<PlacedTable>& tables, int self, int world_size) {
  std::vector<LoggedMatrix> matrices;
  std::size_t next_table = 0;
  int next_rank = 0;
  visit_leaves(model, "", [&](std::string_view path, auto& leaf) {
    using Leaf = std::remove_cvref_t<decltype(leaf)>;
    if constexpr (std::is_same_v<Leaf, Parameter>) {
      const auto values = leaf.tensor().detach();
      const auto rows = values.dim() < 2 ? 1 : values.size(0), columns = rows == 0 ? 0 : values.numel() / rows;
      LoggedMatrix matrix{std::string(path), false, values.scalar_type(), rows, columns, {}};
      const int rank = next_rank++ % world_size;
      if (values.numel() > 0)
        matrix.shards.push_back({{0, rows, 0, columns}, rank, rank == self ? values.view({rows, columns}) : at::Tensor{}});
      matrices.push_back(std::move(matrix));
    } else if constexpr (EmbeddingTables<Leaf>) {
      for (std::size_t t = 0; t < leaf.configs().size(); ++t) {
        const auto& table = tables[next_table++];
        const auto& about = table.description;
        LoggedMatrix matrix{about.name + ".weight", true, about.data_type, about.num_embeddings, about.embedding_dim, {}};
        for (const auto& shard : table.shards)
          if (table.is_primary(shard))
            matrix.shards.push_back({shard.box, shard.rank, shard.local ? shard.local->storage.weight() : at::Tensor{}});
        matrices.push_back(std::move(matrix));
      }
    }
  });
  return matrices;
}

/// All parameters of a placed model, tables included.
template <class Placed> std::vector<LoggedMatrix> logged_matrices(Placed& placed) {
  return matrices_of(placed.model(), placed.tables(), placed.topology().rank(), placed.topology().world_size());
}

/// One row out of each of `count` even stretches of [0, rows), ascending, drawn from the key. Cost: O(count).
inline std::vector<std::int64_t> sample_of_rows(std::int64_t rows, std::int64_t count, std::uint64_t key) {
  std::vector<std::int64_t> sample;
  for (std::int64_t i = 0; i < count; ++i) {
    const double stretch = static_cast<double>(rows) / static_cast<double>(count);
    const auto begin = static_cast<std::int64_t>(static_cast<double>(i) * stretch);
    const auto end = i + 1 == count ? rows : static_cast<std::int64_t>(static_cast<double>(i + 1) * stretch);
    sample.push_back(begin +
                     static_cast<std::int64_t>(mix64(key + static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(end - begin)));
  }
  return sample;
}

/// `matrices` with tables of more than `count` rows cut down to a sample of `count`; all as they are for a count of 0.
/// Errors: ConfigError for a negative count.
inline std::vector<LoggedMatrix> sampled(std::vector<LoggedMatrix> matrices, std::int64_t count, std::uint64_t seed) {
  check<ConfigError>(count >= 0, "sample_rows is ", count, "; it must not be negative");
  for (auto& matrix : matrices) {
    if (count == 0 || !matrix.is_table || matrix.rows <= count) continue;
    const auto sample = sample_of_rows(matrix.rows, count, random_key(seed, matrix.name));
    std::vector<MatrixShard> shards;
    for (const auto& shard : matrix.shards) {
      const auto first = std::lower_bound(sample.begin(), sample.end(), shard.box.row_begin);
      const auto last = std::lower_bound(first, sample.end(), shard.box.row_end);
      if (first == last) continue;
      auto& source = matrix.sources.emplace_back();
      if (shard.values.defined()) {
        source = {shard.values, ops::empty({last - first}, at::kLong)};
        std::transform(first, last, source.rows.mutable_data_ptr<std::int64_t>(),
                       [&](std::int64_t row) { return row - shard.box.row_begin; });
        source.rows = source.rows.to(shard.values.device());
      }
      shards.push_back({{first - sample.begin(), last - sample.begin(), shard.box.column_begin, shard.box.column_end}, shard.rank, {}});
    }
    matrix.rows = count;
    matrix.shards = std::move(shards);
  }
  return matrices;
}

/// Position of a matrix by name; `only_tables` leaves dense parameters out. Errors: IndexError with the names there are.
inline std::size_t find_matrix(const std::vector<LoggedMatrix>& matrices, std::string_view name, std::string_view caller,
                               bool only_tables) {
  constexpr std::size_t shown = 20;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    if (only_tables && !matrices[i].is_table) continue;
    if (matrices[i].name == name) return i;
    names.push_back(matrices[i].name);
  }
  const auto left = names.size() - std::min(names.size(), shown);
  names.resize(names.size() - left);
  fail<IndexError>(caller, ": no ", only_tables ? "table" : "parameter", " '", name, "'; there are ", names,
                   left > 0 ? concat(" and ", left, " more") : std::string());
}

}  // namespace rookery::detail
