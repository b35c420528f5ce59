// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// EmbeddingBagConfig, EmbeddingConfig: what a user says of a table; TableDescription: what the rest of the library sees of it.
//
// Answers to torchrec/modules/embedding_configs.py, with its field names.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/dtype.hpp>
#include <rookery/core/random.hpp>
#include <rookery/embedding/row_vocabulary.hpp>
#include <rookery/rules/rules.hpp>

namespace rookery {

/// How the rows of a bag become one vector, if they do. A weighted mean divides by the sum of weights; a zero sum gives zeros.
enum class PoolingType { sum, mean, none };

inline std::string_view to_string(PoolingType pooling) {
  return pooling == PoolingType::sum ? "sum" : pooling == PoolingType::mean ? "mean" : "none";
}

/// The name of a table: a string that no list of numbers makes. `tables{{{.name = "a", .num_embeddings = 9, .embedding_dim = 4}}}` is then
/// a list of one table; of a std::string GCC 12, which lets designators initialise any class, would make one table whose name is the
/// 4 characters of "a" from the 9th on.
struct TableName : std::string {
  TableName() = default;
  TableName(const char* name) : std::string(name) {}
  TableName(std::string_view name) : std::string(name) {}
  TableName(std::string name) noexcept : std::string(std::move(name)) {}
};

namespace detail {
// GCC 12 fails on `std::vector<..> member{}` in a template aggregate that is initialised by designators; a call is fine.
inline TableName no_name() noexcept { return {}; }
inline std::vector<std::string> no_names() noexcept { return {}; }
inline Initial uniform_by_default() noexcept { return Uniform{}; }
inline RowAssignment rows_are_ids() noexcept { return {}; }
}  // namespace detail

/// One table of an EmbeddingBagCollection whose optimizers come from `Set` = Rules<...>.
template <class Set> struct EmbeddingBagConfig {
  TableName name = detail::no_name();
  std::int64_t num_embeddings = 0;                                       // rows, E
  std::int64_t embedding_dim = 0;                                        // columns, D; any D >= 1
  std::vector<std::string> feature_names = detail::no_names();           // empty: one feature named as the table
  PoolingType pooling = PoolingType::sum;
  at::ScalarType data_type = at::kFloat;                                 // float32, float64, float16 or bfloat16
  Initial initial = detail::uniform_by_default();                        // Uniform{}: even on +-1 / sqrt(rows); core/random.hpp has more
  RuleChoice<Set> optimizer{};                                          // the first of the set
  bool frozen = false;                                                   // looked up, never updated; no state
  bool stochastic_rounding = true;                                       // of float16 and bfloat16 weights; else to the nearest
  RowAssignment managed_collision = detail::rows_are_ids();              // a ManagedCollision: any id, by an evicting vocabulary

  static constexpr std::string_view collection = "EmbeddingBagCollection", prefix = "embedding_bags";
};

/// One table of an EmbeddingCollection; as EmbeddingBagConfig without pooling.
template <class Set> struct EmbeddingConfig {
  TableName name = detail::no_name();
  std::int64_t num_embeddings = 0;
  std::int64_t embedding_dim = 0;
  std::vector<std::string> feature_names = detail::no_names();
  at::ScalarType data_type = at::kFloat;
  Initial initial = detail::uniform_by_default();
  RuleChoice<Set> optimizer{};
  bool frozen = false;
  bool stochastic_rounding = true;
  RowAssignment managed_collision = detail::rows_are_ids();

  static constexpr std::string_view collection = "EmbeddingCollection", prefix = "embeddings";
};

/// A table as planner, exchange and logs see it: no optimizer type, no memory.
struct TableDescription {
  std::string name;                                                      // full, as "user.embedding_bags.user_id"
  std::string table;                                                     // the config's name, "user_id"
  std::int64_t num_embeddings = 0;
  std::int64_t embedding_dim = 0;
  at::ScalarType data_type = at::kFloat;
  PoolingType pooling = PoolingType::sum;
  std::string rule;
  bool frozen = false;
  std::string settings{};                                                // features, first values, hyper-parameters; ranks compare it
  std::int64_t state_numbers_per_row = 0;                                // optimizer state, in numbers of compute_dtype
  std::int64_t row_sums = 0;                                             // sums over a whole row that the rule needs
  RowAssignment managed_collision{};
  std::int64_t features = 1;                                             // that are looked up in it
  bool is_weighted = false;                                              // each id carries a weight

  /// Whether an id is the number of one of the rows.
  bool has_row(std::int64_t id) const { return id >= 0 && id < num_embeddings; }
  /// Shards begin and end at multiples of this many rows.
  std::int64_t row_block() const { return managed_collision ? num_embeddings / managed_collision.buckets() : 1; }

  /// Weights and state of the whole table.
  std::int64_t bytes() const { return bytes(num_embeddings, embedding_dim); }
  /// Of a shard of that many rows and columns. State of a column goes with it; that of a whole row is with every shard of the row.
  std::int64_t bytes(std::int64_t rows, std::int64_t columns) const {
    const auto weight = static_cast<std::int64_t>(c10::elementSize(data_type));
    const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(data_type)));
    const auto of_column = weight + state_numbers_per_row / embedding_dim * number, of_row = state_numbers_per_row % embedding_dim * number;
    return rows * (columns * of_column + of_row);
  }
};

}  // namespace rookery
