// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Tables to plan for, out of a TOML or a JSON file with the same keys; tables.toml explains them. Every mistake is a ConfigError of one
// sentence that starts with the file, and in TOML the line.

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/read_table.hpp>
#include <rookery/embedding/embedding_bag_collection.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/rules/adagrad.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/lamb.hpp>
#include <rookery/rules/lars_sgd.hpp>
#include <rookery/rules/partial_rowwise_adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>
#include <rookery/rules/sgd.hpp>

#include "toml_section.hpp"

namespace examples {

/// What a file says: tables, and how they are looked up and may be split.
struct TablesFile {
  std::vector<rk::TableDescription> tables;
  rk::Constraints constraints;
};

/// Puts a JSON value into a TOML table under `key`, or else at the end of a list.
inline void add_json(const nlohmann::ordered_json& value, const std::string& file, toml::table* table, toml::array* list,
                     const std::string& key) {
  const auto put = [&](auto node) {
    if (table) table->insert_or_assign(key, std::move(node));
    else list->push_back(std::move(node));
  };
  if (value.is_object()) {
    toml::table inner;
    for (const auto& [name, one] : value.items()) add_json(one, file, &inner, nullptr, name);
    put(std::move(inner));
  } else if (value.is_array()) {
    toml::array inner;
    for (const auto& one : value) add_json(one, file, nullptr, &inner, "");
    put(std::move(inner));
  } else if (value.is_string()) {
    put(value.get<std::string>());
  } else if (value.is_boolean()) {
    put(value.get<bool>());
  } else if (value.is_number_integer()) {
    put(value.get<std::int64_t>());
  } else if (value.is_number()) {
    put(value.get<double>());
  } else {
    rk::fail<rk::ConfigError>(file, ": null means nothing here; leave the key out");
  }
}

inline toml::table parse_toml_or_json(std::string_view text, const std::string& file) {
  toml::table root;
  try {
    if (!file.ends_with(".json")) return toml::parse(text, file);
    const auto json = nlohmann::ordered_json::parse(text);
    rk::check<rk::ConfigError>(json.is_object(), file, ": must be an object with a list of \"tables\"");
    for (const auto& [key, one] : json.items()) add_json(one, file, &root, nullptr, key);
  } catch (const nlohmann::json::parse_error& error) {
    rk::fail<rk::ConfigError>(file, ": this is not JSON, from byte ", error.byte, " on");
  } catch (const nlohmann::json::exception&) {
    rk::fail<rk::ConfigError>(file, ": it has a number that is too large");
  } catch (const toml::parse_error& error) {
    rk::fail<rk::ConfigError>(file, ":", error.source().begin.line, ": ", error.description());
  } catch (const TomlAssertion&) {
    rk::fail<rk::ConfigError>(file, ": the text is not TOML; its brackets, or a key or value before a line end, are the likely place");
  }
  return root;
}

using TableRules = rk::Rules<rk::RowwiseAdagrad, rk::Adagrad, rk::Adam, rk::PartialRowwiseAdam, rk::Lamb, rk::PartialRowwiseLamb,
                             rk::LarsSgd, rk::Sgd>;

/// The keys of one table, or of several that are the same.
struct TableEntry {
  rk::EmbeddingBagConfig<TableRules> config;
  rk::PoolingType pooling = rk::PoolingType::sum;
  std::int64_t count = 1, features = 1;
  bool is_weighted = false;
  std::vector<std::string> kinds;
  std::vector<std::int64_t> ranks;
  rk::ParameterConstraints asked;
};

inline TableEntry read_entry(Section& section) {
  TableEntry entry;
  section.read("name", entry.config.name);
  section.read("count", entry.count);
  section.read("num_embeddings", entry.config.num_embeddings);
  section.read("embedding_dim", entry.config.embedding_dim);
  section.read("data_type", entry.config.data_type,
               {Choice{"float32", at::kFloat}, {"float64", at::kDouble}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}});
  section.read("optimizer", entry.config.optimizer,
               {Choice<rk::RuleChoice<TableRules>>{"rowwise_adagrad", rk::RowwiseAdagrad{}}, {"adagrad", rk::Adagrad{}},
                {"adam", rk::Adam{}}, {"partial_rowwise_adam", rk::PartialRowwiseAdam{}}, {"lamb", rk::Lamb{}},
                {"partial_rowwise_lamb", rk::PartialRowwiseLamb{}}, {"lars_sgd", rk::LarsSgd{}}, {"sgd", rk::Sgd{}}});
  section.read("frozen", entry.config.frozen);
  section.read("pooling", entry.pooling,
               {Choice{"sum", rk::PoolingType::sum}, {"mean", rk::PoolingType::mean}, {"none", rk::PoolingType::none}});
  section.read("features", entry.features);
  section.read("is_weighted", entry.is_weighted);
  section.read("kinds", entry.kinds);
  section.read("ranks", entry.ranks);
  section.read("min_partition", entry.asked.min_partition);
  section.read("pooling_factors", entry.asked.pooling_factors);
  section.read("num_poolings", entry.asked.num_poolings);
  section.read("batch_sizes", entry.asked.batch_sizes);
  return entry;
}

/// Adds an entry's tables, as a collection describes them, so that their bytes are those of training.
inline void add_tables(TableEntry entry, TablesFile& found) {
  const auto& name = entry.config.name;
  rk::check<rk::ConfigError>(0 < entry.count && entry.count <= 1'000'000, "'count' is ", entry.count, "; it must be from 1 to 1000000");
  rk::check<rk::ConfigError>(0 < entry.features && entry.features < 1 << 16, "'features' is ", entry.features,
                             "; it must be from 1 to 65535");
  for (std::int64_t f = 0; f < entry.features; ++f) entry.config.feature_names.push_back(rk::concat(f));
  for (const auto& kind : entry.kinds) entry.asked.kinds.push_back(rk::sharding_kind(kind));
  for (const auto rank : entry.ranks) {
    rk::check<rk::ConfigError>(0 <= rank && rank < 1 << 20, "table '", name, "' asks for rank ", rank);
    entry.asked.ranks.push_back(static_cast<int>(rank));
  }
  auto described = rk::EmbeddingBagCollection<TableRules>({entry.config}, {.is_weighted = entry.is_weighted}).describe("").front();
  described.pooling = entry.pooling;
  for (std::int64_t i = 0; i < entry.count; ++i) {
    described.table = entry.count == 1 ? std::string(name) : rk::concat(name, "_", i);
    described.name = described.table;                            // as the model calls it, in full or in short
    rk::check<rk::ConfigError>(found.constraints.emplace(described.name, entry.asked).second, "table '", described.name,
                               "' is there twice");
    found.tables.push_back(described);
  }
}

/// The tables that a text describes; a `file` that ends in .json is JSON, any other TOML.
/// Errors: ConfigError for text that is neither, unknown keys, values of the wrong type, and tables that cannot be.
inline TablesFile parse_tables(std::string_view text, const std::string& file) {
  const auto root = parse_toml_or_json(text, file);
  Section section(root, file, "", 0);
  TablesFile found;
  section.each("tables", "", [&](Section& table) {
    auto entry = read_entry(table);
    table.checked([&] { add_tables(std::move(entry), found); });
  });
  section.done();
  rk::check<rk::ConfigError>(!found.tables.empty(), file, ": no tables; write [[tables]] above the keys of each");
  return found;
}

inline TablesFile load_tables(const std::string& path) { return parse_tables(rk::read_text(path), path); }

}  // namespace examples
