// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A TableSchema out of a TOML file. The keys are the names of the members of TableSchema and of the structs in it; movielens.toml
// explains them. Every mistake is a ConfigError of one sentence that starts with `file.toml:line:`.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/data/read_table.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>

#include "toml_section.hpp"

namespace examples {

/// Reads the keys of a TableFile out of `section`; relative paths lie in `directory`.
inline void read_file(Section& section, const std::filesystem::path& directory, rk::TableFile& file) {
  section.read("paths", file.paths);
  section.read("separator", file.separator);
  section.read("quote", file.quote);
  section.read("has_header", file.has_header);
  section.read("columns", file.columns);
  section.read("name_ends_at", file.name_ends_at);
  for (auto& path : file.paths) path = (directory / path).string();
}

inline rk::LabelColumn read_label(Section& section) {
  rk::LabelColumn label;
  section.read("column", label.column);
  section.read("name", label.name);
  section.read("at_least", label.at_least);
  section.read("above", label.above);
  section.read("at_most", label.at_most);
  section.read("below", label.below);
  section.read("equals", label.equals);
  return label;
}

inline rk::DenseColumn read_dense(Section& section) {
  using Transform = rk::DenseTransform;
  rk::DenseColumn dense;
  section.read("column", dense.column);
  section.read("name", dense.name);
  section.read("transform", dense.transform,
               {Choice{"none", Transform::none}, {"log1p", Transform::log1p}, {"signed_log1p", Transform::signed_log1p}});
  section.read("subtract", dense.subtract);
  section.read("divide", dense.divide);
  section.read("missing_texts", dense.missing_texts);
  section.read("missing", dense.missing);
  return dense;
}

inline rk::IdColumn read_id(Section& section) {
  using Rows = rk::IdRows;
  using Unknown = rk::UnknownIds;
  rk::IdColumn id;
  section.read("column", id.column);
  section.read("name", id.name);
  section.read("separator", id.separator);
  section.read("first_characters", id.first_characters);
  section.single("bucket", "", [&](Section& bucket) {
    id.bucket.emplace();
    bucket.read("width", id.bucket->width);
    bucket.read("zero_apart", id.bucket->zero_apart);
    bucket.read("boundaries", id.bucket->boundaries);
  });
  section.read("rows", id.rows, {Choice{"whole_file", Rows::whole_file}, {"training_part", Rows::training_part}, {"hashed", Rows::hashed},
                                 {"number", Rows::number}});
  section.read("num_embeddings", id.num_embeddings);
  section.read("seed", id.seed);
  section.read("missing_texts", id.missing_texts);
  section.read("unknown", id.unknown,
               {Choice{"refuse", Unknown::refuse}, {"own_row", Unknown::own_row}, {"empty_bag", Unknown::empty_bag}});
  return id;
}

inline rk::SideTable read_side_table(Section& section, const std::filesystem::path& directory) {
  rk::SideTable side;
  section.read("name", side.name);
  read_file(section, directory, side.file);
  section.read("key", side.key);
  section.read("column", side.column);
  section.read("unknown", side.unknown, {Choice{"refuse", rk::UnknownKeys::refuse}, {"missing", rk::UnknownKeys::missing}});
  return side;
}

inline rk::Split read_split(Section& section) {
  enum class By { fraction, order, column, hash } by{};
  section.read("by", by, {Choice{"fraction", By::fraction}, {"order", By::order}, {"column", By::column}, {"hash", By::hash}});
  const auto read_shares = [&](auto& split) {
    section.read("train", split.train);
    section.read("validation", split.validation);
    section.read("validation_in_train", split.validation_in_train);
  };
  const auto read_lists = [&](auto& split) {
    section.read("train", split.train);
    section.read("validation", split.validation);
    section.read("test", split.test);
  };
  if (by == By::fraction) {
    rk::SplitByFraction split;
    read_shares(split);
    section.read("seed", split.seed);
    return split;
  }
  if (by == By::order) {
    rk::SplitByOrder split;
    section.read("columns", split.columns);
    read_shares(split);
    return split;
  }
  if (by == By::column) {
    rk::SplitByColumn split;
    section.read("column", split.column);
    read_lists(split);
    return split;
  }
  rk::SplitByHash split;
  section.each("terms", "column", [&](Section& term) {
    auto& read = split.terms.emplace_back();
    term.read("column", read.column);
    term.read("multiplier", read.multiplier);
    term.read("add", read.add);
  });
  section.read("shift", split.shift);
  section.read("modulus", split.modulus);
  read_lists(split);
  return split;
}

/// The schema that a TOML text describes; `file` is its name in messages, relative paths of data lie in `directory`.
/// Errors: ConfigError for text that is not TOML, unknown keys, values of the wrong type, and a schema that cannot mean anything.
inline rk::TableSchema parse_schema(std::string_view text, const std::string& file, const std::filesystem::path& directory) {
  toml::table root;
  try {
    root = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    rk::fail<rk::ConfigError>(file, ":", error.source().begin.line, ": ", error.description());
  } catch (const TomlAssertion&) {
    rk::fail<rk::ConfigError>(file, ": the text is not TOML; its brackets, or a key or value before a line end, are the likely place");
  }
  Section section(root, file, "", 0);
  rk::TableSchema schema;
  const auto add = [](Section& entry, auto& to, auto value) {
    entry.checked([&] { rk::check_schema(value); });
    to = std::move(value);
  };
  section.single("file", "paths", [&](Section& table) {
    read_file(table, directory, schema.file);
    table.checked([&] { rk::check_schema(schema.file, "file"); });
  });
  section.single("label", "column", [&](Section& label) { add(label, schema.label, read_label(label)); });
  section.each("labels", "column", [&](Section& label) {
    add(label, schema.labels.emplace_back(), read_label(label));
    label.checked([&] { rk::check_distinct_names(schema.labels, "label"); });
  });
  section.read("has_label", schema.has_label);
  section.single("group", "column", [&](Section& group) { group.read("column", schema.group.column); });
  section.read("weight", schema.weight);
  section.each("dense", "column", [&](Section& dense) {
    add(dense, schema.dense.emplace_back(), read_dense(dense));
    dense.checked([&] { rk::check_distinct_names(schema.dense, "dense column"); });
  });
  section.each("ids", "column", [&](Section& id) {
    add(id, schema.ids.emplace_back(), read_id(id));
    id.checked([&] { rk::check_distinct_names(schema.ids, "id column"); });
  });
  section.each("side_tables", "", [&](Section& side) { add(side, schema.side_tables.emplace_back(), read_side_table(side, directory)); });
  section.single("split", "by", [&](Section& split) { add(split, schema.split, read_split(split)); });
  section.checked([&] { rk::check_schema(schema); });
  return schema;
}

/// The schema in a TOML file. Relative paths of data lie in `directory`, or beside the TOML file where that is empty.
inline rk::TableSchema load_schema(const std::filesystem::path& path, const std::filesystem::path& directory = {}) {
  return parse_schema(rk::read_text(path.string()), path.string(), directory.empty() ? path.parent_path() : directory);
}

/// `file.toml:line` of the line that first names what a sentence has in its first quotes, as in "label 'clicked': .."; `file.toml` where
/// none does.
inline std::string place_in_schema(std::string_view sentence, const std::string& file) {
  const auto begin = sentence.find('\''), end = sentence.find('\'', begin + 1);
  if (end == sentence.npos) return file;
  const auto name = sentence.substr(begin + 1, end - begin - 1);
  std::istringstream lines(rk::read_text(file));
  std::size_t number = 1;
  for (std::string line; std::getline(lines, line); ++number)
    for (const char quote : {'"', '\''})
      if (!line.starts_with('#') && line.find(rk::concat(quote, name, quote)) != line.npos) return rk::concat(file, ":", number);
  return file;
}

/// The clicks that the schema in a TOML file describes, read.
/// Errors: those of load_schema and read_table, with the line of the schema that names the column; ConfigError for labels outside [0, 1]
///         and for a schema without labels.
inline std::shared_ptr<const rk::Table> load_clicks(const std::filesystem::path& path, const std::filesystem::path& directory = {}) {
  const auto file = path.string();
  const auto schema = load_schema(path, directory);
  rk::check<rk::ConfigError>(schema.has_label, file, ": has_label = false; clicks are labels");
  std::shared_ptr<const rk::Table> table;
  try {
    table = rk::read_table(schema);
  } catch (const rk::ConfigError& error) {
    rk::fail<rk::ConfigError>(place_in_schema(error.what(), file), ": ", error.what());
  } catch (const rk::DataError& error) {
    const auto place = place_in_schema(error.what(), file);
    rk::fail<rk::DataError>(error.what(), place == file ? "" : rk::concat("; the schema names it in ", place));
  }
  const auto& labels = table->labels();
  const auto odd = std::ranges::find_if(labels, [](float label) { return label < 0 || label > 1; });
  if (odd == labels.end()) return table;
  const auto at = static_cast<std::size_t>(odd - labels.begin()), count = table->label_names().size();
  const auto sentence = rk::concat("label '", (schema.labels.empty() ? schema.label : schema.labels[at % count]).column, "' is ", *odd,
                                   " in row ", at / count, "; clicks are 0 or 1: give it a comparison, such as at_least = 4");
  rk::fail<rk::ConfigError>(place_in_schema(sentence, file), ": ", sentence);
}

}  // namespace examples
