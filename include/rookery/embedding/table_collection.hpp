// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableCollection: tables that are looked up together, declared by their configs; what every kind of collection is made of.
//
// A declaration costs no memory. ShardingPolicy::apply gives it the shards that live on this rank, and only those. Reading,
// exchanging and stepping go through shards; the collection itself knows its configs, its rules and its local shards.
// Features come in table order; one that several tables share appears as `feature@table`.
// Answers to torchrec/modules/embedding_modules.py.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/embedding/config.hpp>
#include <rookery/embedding/row_vocabulary.hpp>
#include <rookery/embedding/table_storage.hpp>
#include <rookery/kernels/cpu/row_update.hpp>
#include <rookery/kernels/device/row_update.hpp>
#include <rookery/rules/probe.hpp>
#include <rookery/sparse/jagged_tensor.hpp>
#include <rookery/sparse/keyed_tensor.hpp>

namespace rookery {

/// A rectangle of a table: rows [row_begin, row_end) by columns [column_begin, column_end).
struct ShardBox {
  std::int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;

  std::int64_t rows() const { return row_end - row_begin; }
  std::int64_t columns() const { return column_end - column_begin; }
  friend bool operator==(const ShardBox&, const ShardBox&) = default;
};

/// A shard that lives on this rank.
struct LocalShard {
  std::size_t table = 0;                 // of the collection
  std::size_t shard = 0;                 // among the table's shards
  ShardBox box;
  std::uint64_t key = 0;                 // the table's random key
  TableStorage storage;
  RowVocabulary vocabulary;
};

/// The distinct rows of a local shard that a step reached, with their gradients summed.
struct RowGradients {
  std::vector<std::int64_t> rows;        // [U] ascending, counted from the shard's first row
  at::Tensor sums;                       // [U, columns]
  at::Tensor rows_there{};               // [U] the rows, where the sums are on a device
  at::Tensor row_sums{};                 // [U, row_sums] float64, there too: what the rule adds up over a row
  at::Tensor valid{};                    // [] bool, on a device: where it does not hold, the rows stay as they are
};

/// One output of a collection: a feature, and the table that it is looked up in.
struct CollectionFeature {
  std::string feature;
  std::size_t table = 0;
  std::int64_t column = 0;               // where its D columns start in the output
};

/// What to do with an id that its table has no row for.
enum class BadIds {
  refuse,                                // an IndexError that names it
  drop,                                  // leave it out of its bag and count it
  empty_bag,                             // leave out the whole bag and count the id
};

/// What to do with a feature that the batch does not have.
enum class MissingFeatures {
  refuse,                                // an IndexError that names it
  empty,                                 // as bags without ids: zeros, or no rows of a sequence
};

struct CollectionOptions {
  bool is_weighted = false;              // each id carries a weight
  BadIds bad_ids = BadIds::refuse;
  MissingFeatures missing_features = MissingFeatures::refuse;
};

/// What a lookup brought back, before it is given its collection's own type.
struct LookedUp {
  std::shared_ptr<const KeyedColumns> columns;
  at::Tensor pooled;                     // [B, sum(D)] of pooled bags
  std::vector<JaggedTensor> sequences;   // a feature: values [n, D], of rows one by one
};

/// Tables declared by `Config` (EmbeddingBagConfig or EmbeddingConfig), and their shards on this rank once placed.
///
/// Errors: ConfigError for a table without name, rows or columns, for a repeated table name or feature of a table, and for tables of
///         different compute dtypes.
template <class ConfigType> class TableCollection {
 public:
  using Config = ConfigType;
  static constexpr bool is_embedding_tables = true;
  /// Whether rows come back one by one.
  static constexpr bool is_sequence = !requires(const Config& config) { config.pooling; };

  TableCollection() : TableCollection(std::vector<Config>{}) {}
  TableCollection(std::initializer_list<Config> configs, CollectionOptions options = CollectionOptions())
      : TableCollection(std::vector<Config>(configs), options) {}
  TableCollection(std::vector<Config> configs, CollectionOptions options = CollectionOptions())
      : configs_(std::move(configs)), options_(options), assigned_(configs_.size()) {
    validate();
    lay_out();
  }

  const std::vector<Config>& configs() const { return configs_; }
  bool is_weighted() const { return options_.is_weighted; }
  BadIds bad_ids() const { return options_.bad_ids; }
  MissingFeatures missing_features() const { return options_.missing_features; }
  /// Of outputs and gradients: float64 when the tables are, else float32.
  at::ScalarType data_type() const { return configs_.empty() ? at::kFloat : compute_dtype(configs_.front().data_type); }
  const std::vector<CollectionFeature>& features() const { return features_; }
  /// Keys and widths of the output.
  const std::shared_ptr<const KeyedColumns>& columns() const { return columns_; }
  std::int64_t width() const { return width_; }

  /// The name of a table in the model; `path` is the collection's own.
  static std::string full_name(std::string_view path, const Config& config) {
    return concat(path, path.empty() ? "" : ".", Config::prefix, ".", config.name);
  }
  /// The tables as the planner sees them; `path` is the collection's own name in the model.
  std::vector<TableDescription> describe(std::string_view path) const {
    std::vector<TableDescription> tables;
    for (const auto& config : configs_) tables.push_back(describe(path, config));
    return tables;
  }

  /// Gives a table its values before placement, [num_embeddings, embedding_dim]. A contiguous tensor is not copied, so that ranks of one
  /// process may share it; its owner must not change it before placement, which takes the shard's part. Errors: IndexError, ShapeError.
  void assign(std::string_view table, const at::Tensor& values) {
    const auto index = index_of(table);
    const auto& config = configs_[index];
    check<ShapeError>(values.dim() == 2 && values.size(0) == config.num_embeddings && values.size(1) == config.embedding_dim,
                      Config::collection, ": assigned values of shape ", values.sizes(), " to table '", table, "' of [",
                      config.num_embeddings, ", ", config.embedding_dim, "]");
    check<ConfigError>(!placed_, Config::collection, ": assign to table '", table, "' after placement");
    assigned_[index].values = values.detach().contiguous();                                          // [E, D]
    assigned_[index].version = version_of(assigned_[index].values);
  }

  bool is_placed() const { return placed_; }
  /// Position of a table, or an IndexError that lists the tables there are.
  std::size_t index_of(std::string_view table) const {
    const auto found = std::find_if(configs_.begin(), configs_.end(), [&](const Config& config) { return config.name == table; });
    if (found == configs_.end()) {
      std::vector<std::string> names;
      for (const auto& config : configs_) names.push_back(config.name);
      fail<IndexError>(Config::collection, ": no table '", table, "'; tables are ", names);
    }
    return static_cast<std::size_t>(found - configs_.begin());
  }

  /// Allocates and fills one shard on this rank, in the device's memory; `key` is the table's random key. Called by ShardingPolicy::apply.
  /// Cost: the shard's bytes; one pass, on the host.
  [[gnu::cold]] void place(std::size_t table, std::size_t shard, const ShardBox& box, std::uint64_t key,
             c10::Device device = c10::Device(c10::DeviceType::CPU));
  /// Ends placement: assigned values are no longer held.
  void placed() {
    assigned_.clear();
    placed_ = true;
  }

  std::vector<LocalShard>& shards() { return shards_; }
  const std::vector<LocalShard>& shards() const { return shards_; }

  /// Gives rows that changed hands the initial values of their new ids, and their state a fresh start. The values depend on the id,
  /// not on the row.
  void renew(LocalShard& shard, std::span<const GivenRow> given) const;

  /// What the host's kernels need to update rows of a shard in a step.
  kernels::RowTask row_task(const LocalShard& shard, const StepContext& context) const;
  /// On a device: the rule's sums over the columns of this shard become the gradients' own, where it needs any.
  [[gnu::cold]] void row_sums_there(const LocalShard& shard, RowGradients& gradients, const StepContext& context) const {
    with_task_there(shard, gradients, context, [&](const auto& rule, const auto& task) {
      if constexpr (std::remove_cvref_t<decltype(rule)>::row_sums > 0)
        gradients.row_sums = kernels::sum_rows(rule, context, task);                         // [U, row_sums]
    });
  }
  /// On a device: one update of each row. The gradients have the sums of whole rows.
  [[gnu::cold]] void update_there(const LocalShard& shard, const RowGradients& gradients, const StepContext& context) const {
    with_task_there(shard, gradients, context,
                    [&](const auto& rule, const auto& task) { kernels::update_rows(rule, context, task, gradients.row_sums); });
  }

 private:
  /// Values that a table is to have, and how often they had been changed when they were given.
  struct Assigned {
    at::Tensor values;                   // [E, D]
    std::uint32_t version = 0;
  };
  static std::uint32_t version_of(const at::Tensor& values) {
    return values.is_inference() ? 0 : static_cast<std::uint32_t>(values._version());
  }
  static PoolingType pooling_of(const Config& config) {
    if constexpr (is_sequence) return PoolingType::none;
    else return config.pooling;
  }
  static double start_of_state(const Config& config, std::size_t slot) {
    return config.optimizer.visit([&](const auto& rule) { return initial_state(rule, slot); });
  }
  /// Bytes of weights and state for each weight, at most: a slot of rows counts as one of weights.
  static std::int64_t state_bytes(const Config& config) {
    const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(config.data_type)));
    return config.optimizer.visit([&](const auto& rule) { return number * (1 + static_cast<std::int64_t>(rule.state.size())); });
  }
  static double default_bound(const Config& config) { return 1 / std::sqrt(static_cast<double>(config.num_embeddings)); }
  // Once a table, before any step: optimised for size.
  [[gnu::cold]] TableDescription describe(std::string_view path, const Config& config) const;
  [[gnu::cold]] void validate(std::size_t i, std::int64_t& total) const;
  void validate() const {
    std::int64_t bytes = 0;              // of all tables, at most
    for (std::size_t i = 0; i < configs_.size(); ++i) validate(i, bytes);
  }
  void lay_out();
  [[gnu::cold]] void renew_on_device(LocalShard& shard, std::span<const GivenRow> given) const;
  template <class Fn>
  void with_task_there(const LocalShard& shard, const RowGradients& gradients, const StepContext& context, Fn&& fn) const;
  /// How the rows of a narrow table are rounded in a step.
  kernels::Rounding rounding(const LocalShard& shard, const StepContext& context) const {
    return {.stochastic = configs_[shard.table].stochastic_rounding, .key = shard.key ^ static_cast<std::uint64_t>(context.step) << 32};
  }
  /// Errors: ConfigError for a rule that is written for the host alone.
  [[gnu::cold]] static void check_rule_on_device(const Config& config) {
    config.optimizer.visit([&]<class Rule>(const Rule& rule) {
      check<ConfigError>(concepts::DeviceRule<Rule>, Config::collection, ": table '", config.name, "' is on a device and its rule ",
                         rule.name, " is written for the host alone; see docs/concepts.md#rule for what a device asks of a rule");
    });
  }

  std::vector<Config> configs_;
  CollectionOptions options_;
  std::vector<CollectionFeature> features_;
  std::shared_ptr<const KeyedColumns> columns_;
  std::int64_t width_ = 0;
  std::vector<Assigned> assigned_;
  std::vector<LocalShard> shards_;
  bool placed_ = false;
};

template <class Config> TableDescription TableCollection<Config>::describe(std::string_view path, const Config& config) const {
  TableDescription table{.name = full_name(path, config),
                         .table = config.name,
                         .num_embeddings = config.num_embeddings,
                         .embedding_dim = config.embedding_dim,
                         .data_type = config.data_type,
                         .pooling = pooling_of(config),
                         .rule = std::string(config.frozen ? "none" : config.optimizer.name()),
                         .frozen = config.frozen || config.optimizer.name() == "none",   // NoUpdate
                         .managed_collision = config.managed_collision,
                         .features = std::max<std::int64_t>(1, static_cast<std::int64_t>(config.feature_names.size())),
                         .is_weighted = is_weighted()};
  if (!config.frozen)
    config.optimizer.visit([&](const auto& rule) {
      table.row_sums = rule.row_sums;
      for (const auto& slot : rule.state) table.state_numbers_per_row += slot.shape == StateShape::row ? 1 : config.embedding_dim;
      table.settings = rookery::describe(rule);
    });
  std::array<double, 2> first{};
  fill_initial(config.initial, default_bound(config), 0, 0, first.data(), 2);
  table.settings += concat("; features ", config.feature_names, " ", to_string(pooling_of(config)),
                           is_weighted() ? " with weights" : "", "; initial values such as ", first);
  if (const auto* law = std::get_if<OwnLaw>(&config.initial)) table.settings += concat(" by '", law->name, "'");
  if (config.data_type == at::kHalf || config.data_type == at::kBFloat16)
    table.settings += config.stochastic_rounding ? "; rounded stochastically" : "; rounded to the nearest";
  if (const auto& ids = config.managed_collision)
    table.settings += "; " + ids.describe();
  return table;
}

template <class Config> void TableCollection<Config>::validate(std::size_t i, std::int64_t& total) const {
  const auto& config = configs_[i];
  check<ConfigError>(!config.name.empty(), Config::collection, ": table number ", i, " has no name");
  check<ConfigError>(config.num_embeddings > 0 && config.embedding_dim > 0, Config::collection, ": table '", config.name, "' is [",
                     config.num_embeddings, ", ", config.embedding_dim, "]; rows and columns must be positive");
  check<ConfigError>(config.data_type == at::kFloat || config.data_type == at::kDouble || config.data_type == at::kHalf ||
                         config.data_type == at::kBFloat16,
                     Config::collection, ": table '", config.name, "' has dtype ", c10::toString(config.data_type),
                     "; use float32, float64, float16 or bfloat16");
  check<ConfigError>(compute_dtype(config.data_type) == data_type(), Config::collection, ": table '", config.name, "' is ",
                     c10::toString(config.data_type), " and table '", configs_.front().name, "' is ",
                     c10::toString(configs_.front().data_type), "; float64 tables have a collection of their own");
  const auto owner = concat(Config::collection, ": table '", config.name, "'");
  config.optimizer.visit([&](const auto& rule) { check_rule(rule, owner); });
  check_initial(config.initial, owner);
  std::int64_t row = 0, table = 0;
  check<ConfigError>(!__builtin_mul_overflow(config.embedding_dim, state_bytes(config), &row) &&
                         !__builtin_mul_overflow(config.num_embeddings, row, &table) && !__builtin_add_overflow(total, table, &total),
                     owner, " is [", config.num_embeddings, ", ", config.embedding_dim, "] of ", c10::toString(config.data_type),
                     "; with its state and the tables before it, it needs more than 2^63 bytes");
  check<ConfigError>(!config.managed_collision || !config.frozen, Config::collection, ": table '", config.name,
                     "' is frozen and has managed collision, which gives rows new values");
  if (config.managed_collision) config.managed_collision.validate(config.name, config.num_embeddings);
  for (const auto& feature : config.feature_names)
    check<ConfigError>(std::count(config.feature_names.begin(), config.feature_names.end(), feature) == 1,
                       Config::collection, ": table '", config.name, "' is given feature '", feature, "' twice");
  for (std::size_t j = 0; j < i; ++j)
    check<ConfigError>(configs_[j].name != config.name, Config::collection, ": table name '", config.name, "' is given twice");
}

template <class Config> void TableCollection<Config>::lay_out() {
  auto columns = std::make_shared<KeyedColumns>();
  for (std::size_t t = 0; t < configs_.size(); ++t) {
    const auto& config = configs_[t];
    const auto names = config.feature_names.empty() ? std::vector<std::string>{config.name} : config.feature_names;
    for (const auto& name : names) {
      features_.push_back({name, t, width_});
      width_ += config.embedding_dim;
      columns->length_per_key.push_back(config.embedding_dim);
    }
  }
  for (const auto& one : features_) {
    const auto uses =
        std::count_if(features_.begin(), features_.end(), [&](const CollectionFeature& f) { return f.feature == one.feature; });
    columns->keys.push_back(uses > 1 ? concat(one.feature, "@", configs_[one.table].name) : one.feature);
  }
  columns_ = std::move(columns);
}

template <class Config>
void TableCollection<Config>::place(std::size_t table, std::size_t shard, const ShardBox& box, std::uint64_t key, c10::Device device) {
  const auto& config = configs_.at(table);
  check<ConfigError>(!placed_, Config::collection, ": table '", config.name, "' is placed already");
  if (device.type() != c10::DeviceType::CPU && !config.frozen) check_rule_on_device(config);
  const auto slots =
      config.frozen ? std::vector<StateSlot>{}
                    : config.optimizer.visit([](const auto& rule) { return std::vector<StateSlot>(rule.state.begin(), rule.state.end()); });
  LocalShard local{table, shard, box, key, TableStorage(box.rows(), box.columns(), config.data_type, slots, device), {}};
  if (const auto& ids = config.managed_collision) {
    const auto rows = config.num_embeddings / ids.buckets();
    local.vocabulary = ids.vocabulary(rows, box.row_begin / rows, box.rows() / rows);
  }
  for (std::size_t slot = 0; slot < slots.size(); ++slot)
    if (const double start = start_of_state(config, slot); start != 0) local.storage.state(slot).fill_(start);
  if (const auto& assigned = assigned_.at(table); assigned.values.defined()) {
    check<ConfigError>(version_of(assigned.values) == assigned.version, Config::collection, ": the values assigned to table '", config.name,
                       "' were changed before it was placed");
    auto values = assigned.values.narrow(0, box.row_begin, box.rows()).narrow(1, box.column_begin, box.columns());
    local.storage.weight().copy_(values);                                                    // [rows, columns]
  } else {
    local.storage.fill([&](TableStorage& storage, std::int64_t first, std::int64_t rows) {
      parallel(rows, 1 + 4096 / (box.columns() + 1), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          storage.fill_row(row, config.initial, default_bound(config), key,
                           (box.row_begin + first + row) * config.embedding_dim + box.column_begin);
      });
    });
  }
  shards_.push_back(std::move(local));
}

template <class Config>
void TableCollection<Config>::renew(LocalShard& shard, std::span<const GivenRow> given) const {
  const auto& config = configs_.at(shard.table);
  if (shard.storage.on_device()) return renew_on_device(shard, given);
  for (const auto& [row, id] : given)
    shard.storage.fill_row(row, config.initial, default_bound(config), shard.key ^ mix64(static_cast<std::uint64_t>(id)),
                           shard.box.column_begin);
  for (std::size_t slot = 0; slot < shard.storage.state_names().size(); ++slot)
    for (const auto& [row, id] : given) shard.storage.state(slot).select(0, row).fill_(start_of_state(config, slot));
}

template <class Config>
void TableCollection<Config>::renew_on_device(LocalShard& shard, std::span<const GivenRow> given) const {
  if (given.empty()) return;
  const auto& config = configs_.at(shard.table);
  TableStorage host(static_cast<std::int64_t>(given.size()), shard.box.columns(), config.data_type, {});
  std::vector<std::int64_t> rows;
  for (const auto& [row, id] : given) {
    host.fill_row(static_cast<std::int64_t>(rows.size()), config.initial, default_bound(config),
                  shard.key ^ mix64(static_cast<std::uint64_t>(id)), shard.box.column_begin);
    rows.push_back(row);
  }
  const auto& weight = shard.storage.weight();                                               // [rows, columns]
  const auto at = detail::host_tensor(rows).to(weight.device());                             // [given]
  weight.index_copy_(0, at, host.weight().to(weight.device()));
  for (std::size_t slot = 0; slot < shard.storage.state_names().size(); ++slot)
    shard.storage.state(slot).index_fill_(0, at, start_of_state(config, slot));
}

template <class Config>
kernels::RowTask TableCollection<Config>::row_task(const LocalShard& shard, const StepContext& context) const {
  const auto& config = configs_.at(shard.table);
  kernels::RowTask task{.dtype = config.data_type};
  if (config.frozen) return task;
  task.weights = shard.storage.weight().mutable_data_ptr();
  task.stride = shard.storage.stride();
  task.dim = shard.box.columns();
  task.full_dim = config.embedding_dim;
  for (std::size_t slot = 0; slot < shard.storage.state_names().size(); ++slot) {
    const auto& state = shard.storage.state(slot);                                           // [rows] or [rows, columns]
    task.state.push_back({state.mutable_data_ptr(), state.stride(0), state.dim() == 1 ? 1 : task.dim});
  }
  task.rounding = rounding(shard, context);
  task.first_element = shard.box.row_begin * config.embedding_dim + shard.box.column_begin;
  task.context = context;
  config.optimizer.visit([&](const auto& rule) {
    for_floating(compute_dtype(config.data_type),
                 [&](auto zero) { kernels::set_rule<std::remove_cvref_t<decltype(rule)>, decltype(zero)>(task, rule); });
  });
  return task;
}

template <class Config>
template <class Fn>
void TableCollection<Config>::with_task_there(const LocalShard& shard, const RowGradients& gradients, const StepContext& context,
                                                  Fn&& fn) const {
  const auto& config = configs_.at(shard.table);
  if (config.frozen || gradients.rows.empty()) return;
  config.optimizer.visit([&]<class Rule>(const Rule& rule) {
    if constexpr (concepts::DeviceRule<Rule>) {              // place() has refused any other
      std::vector<at::Tensor> state;                                                         // each [rows] or [rows, columns]
      for (std::size_t slot = 0; slot < rule.state.size(); ++slot) state.push_back(shard.storage.state(slot));
      fn(rule, kernels::DeviceUpdateTask{.weight = shard.storage.weight(),
                                         .state = state,
                                         .rows = gradients.rows_there,
                                         .gradients = gradients.sums,
                                         .full_dim = config.embedding_dim,
                                         .rounding = rounding(shard, context),
                                         .first_element = shard.box.row_begin * config.embedding_dim + shard.box.column_begin,
                                         .valid = gradients.valid});
    }
  });
}

}  // namespace rookery
