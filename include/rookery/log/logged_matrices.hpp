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
#include <rookery/core/parameter.hpp>
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
        for (const auto& [box, rank, local] : table.shards)
          matrix.shards.push_back({box, rank, local ? local->storage.weight() : at::Tensor{}});
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
