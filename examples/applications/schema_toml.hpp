// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A TableSchema out of a TOML file. The keys are the names of the members of TableSchema and of the structs in it; movielens.toml
// explains them. Every mistake is a ConfigError of one sentence that starts with `file.toml:line:`.

#include <toml++/toml.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/schema_check.hpp>
#include <rookery/data/suggest.hpp>
#include <rookery/data/table_schema.hpp>
#include <rookery/data/table_text.hpp>

namespace examples {

namespace rk = rookery;

/// A name in the file and the value that it stands for.
template <class Value> struct Choice {
  std::string_view name;
  Value value;
};

/// One table of a TOML file. Keys that nobody has asked for by the time of `done()` are mistakes.
class Section {
 public:
  Section(const toml::table& table, std::string file, std::string name, toml::source_index line)
      : table_(&table), file_(std::move(file)), name_(std::move(name)), line_(line) {}

  // `read(key, value)` sets the value if the key is there; a value of another type is an error.
  void read(std::string_view key, std::string& value) {
    if (const auto* node = find(key)) value = as<std::string>(key, *node, "a text");
  }
  void read(std::string_view key, bool& value) {
    if (const auto* node = find(key)) value = as<bool>(key, *node, "true or false");
  }
  void read(std::string_view key, std::int64_t& value) {
    if (const auto* node = find(key)) value = as<std::int64_t>(key, *node, "an integer");
  }
  void read(std::string_view key, std::uint64_t& value) {
    const auto* node = find(key);
    if (!node) return;
    const auto number = as<std::int64_t>(key, *node, "an integer");
    if (number < 0) fail(*node, "'", key, "' is ", number, "; it must not be negative");
    value = static_cast<std::uint64_t>(number);
  }
  void read(std::string_view key, double& value) {
    if (const auto* node = find(key)) value = number(key, *node);
  }
  void read(std::string_view key, std::optional<double>& value) {
    if (const auto* node = find(key)) value = number(key, *node);
  }
  void read(std::string_view key, rk::Share& value) {
    const auto* node = find(key);
    if (!node) return;
    if (node->is_integer()) value = as<std::int64_t>(key, *node, "");
    else value = number(key, *node);
  }
  /// One value, or a list of them.
  template <class Value> void read(std::string_view key, std::vector<Value>& values) {
    const auto* node = find(key);
    if (!node) return;
    constexpr bool text = std::is_same_v<Value, std::string>;
    values.clear();
    if (const auto* list = node->as_array())
      for (const auto& element : *list) values.push_back(as<Value>(key, element, text ? "a list of texts" : "a list of integers"));
    else
      values.push_back(as<Value>(key, *node, text ? "a text or a list of texts" : "an integer or a list of integers"));
  }
  /// One of a few names.
  template <class Value, class Enum, std::size_t N> void read(std::string_view key, Value& value, const Choice<Enum> (&choices)[N]) {
    const auto* node = find(key);
    if (!node) return;
    const auto name = as<std::string>(key, *node, "a text");
    std::vector<std::string> names;
    for (const auto& choice : choices) {
      if (choice.name == name) {
        value = choice.value;
        return;
      }
      names.emplace_back(choice.name);
    }
    fail(*node, "'", key, "' cannot be '", name, "'", rk::suggestion(name, names));
  }

  /// Calls `fn(Section&)` for the table under `key`. A text stands for a table with that text alone, under `short_key`:
  /// label = "clicked" is label = {column = "clicked"}.
  template <class Fn> void single(std::string_view key, std::string_view short_key, Fn&& fn) {
    if (const auto* node = find(key)) visit(key, *node, short_key, fn);
  }
  /// The same for each table of the list under `key`.
  template <class Fn> void each(std::string_view key, std::string_view short_key, Fn&& fn) {
    const auto* node = find(key);
    if (!node) return;
    if (!node->is_array()) fail(*node, "'", key, "' must be a list, not ", kind_of(*node), "; write [[", key, "]] above it");
    for (const auto& element : *node->as_array()) visit(key, element, short_key, fn);
  }

  /// What a read value is refused for, with this section's line.
  template <class Fn> void checked(Fn&& fn) const {
    try {
      fn();
    } catch (const rk::ConfigError& error) {
      rk::fail<rk::ConfigError>(file_, ":", line_, ": ", error.what());
    }
  }

  /// Refuses keys that nothing has asked for.
  void done() const {
    for (const auto& [key, node] : *table_) {
      const std::vector<std::string> known(asked_.begin(), asked_.end());
      if (!asked_.contains(std::string(key.str()))) fail_at(key.source().begin.line, "unknown key '", key.str(), "'", rk::suggestion(key.str(), known));
    }
  }

  template <class... Parts> [[noreturn]] void fail(const toml::node& node, const Parts&... parts) const {
    fail_at(node.source().begin.line, parts...);
  }

 private:
  template <class... Parts> [[noreturn]] void fail_at(toml::source_index line, const Parts&... parts) const {
    rk::fail<rk::ConfigError>(file_, ":", line, ": ", name_, name_.empty() ? "" : ": ", parts...);
  }

  const toml::node* find(std::string_view key) {
    asked_.emplace(key);
    return table_->get(key);
  }

  template <class Value> Value as(std::string_view key, const toml::node& node, std::string_view wanted) const {
    if (const auto value = node.value_exact<Value>()) return *value;
    fail(node, "'", key, "' must be ", wanted, ", not ", kind_of(node));
  }

  double number(std::string_view key, const toml::node& node) const {
    const double value = node.is_integer() ? static_cast<double>(as<std::int64_t>(key, node, "")) : as<double>(key, node, "a number");
    if (!std::isfinite(value)) fail(node, "'", key, "' must be a finite number");
    return value;
  }

  static std::string_view kind_of(const toml::node& node) {
    switch (node.type()) {
      case toml::node_type::table: return "a table";
      case toml::node_type::array: return "a list";
      case toml::node_type::string: return "a text";
      case toml::node_type::integer: return "an integer";
      case toml::node_type::floating_point: return "a number with a fraction";
      case toml::node_type::boolean: return "true or false";
      default: return "a date or a time";
    }
  }

  template <class Fn> void visit(std::string_view key, const toml::node& node, std::string_view short_key, Fn&& fn) const {
    toml::table shorthand;
    if (node.is_string() && !short_key.empty()) shorthand.insert(short_key, *node.as_string());
    else if (!node.is_table()) fail(node, "'", key, "' must be a table", short_key.empty() ? "" : " or a text", ", not ", kind_of(node));
    Section section(node.is_table() ? *node.as_table() : shorthand, file_, rk::concat(name_, name_.empty() ? "" : ".", key), node.source().begin.line);
    fn(section);
    section.done();
  }

  const toml::table* table_;
  std::string file_, name_;
  toml::source_index line_;
  std::set<std::string> asked_;
};

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
  section.read("at_least", label.at_least);
  section.read("above", label.above);
  section.read("at_most", label.at_most);
  section.read("below", label.below);
  section.read("equals", label.equals);
  return label;
}

inline rk::DenseColumn read_dense(Section& section) {
  rk::DenseColumn dense;
  section.read("column", dense.column);
  section.read("name", dense.name);
  section.read("transform", dense.transform, {Choice<rk::DenseTransform>{"none", rk::DenseTransform::none}, {"log1p", rk::DenseTransform::log1p},
                                              {"signed_log1p", rk::DenseTransform::signed_log1p}});
  section.read("subtract", dense.subtract);
  section.read("divide", dense.divide);
  section.read("missing_texts", dense.missing_texts);
  section.read("missing", dense.missing);
  return dense;
}

inline rk::IdColumn read_id(Section& section) {
  rk::IdColumn id;
  section.read("column", id.column);
  section.read("name", id.name);
  section.read("separator", id.separator);
  section.read("first_characters", id.first_characters);
  section.single("bucket", "", [&](Section& bucket) {
    id.bucket.emplace();
    bucket.read("width", id.bucket->width);
    bucket.read("zero_apart", id.bucket->zero_apart);
  });
  section.read("rows", id.rows, {Choice<rk::IdRows>{"whole_file", rk::IdRows::whole_file}, {"training_part", rk::IdRows::training_part},
                                 {"hashed", rk::IdRows::hashed}, {"number", rk::IdRows::number}});
  section.read("num_embeddings", id.num_embeddings);
  section.read("seed", id.seed);
  section.read("missing_texts", id.missing_texts);
  section.read("unknown", id.unknown, {Choice<rk::UnknownIds>{"refuse", rk::UnknownIds::refuse}, {"own_row", rk::UnknownIds::own_row},
                                       {"empty_bag", rk::UnknownIds::empty_bag}});
  return id;
}

inline rk::SideTable read_side_table(Section& section, const std::filesystem::path& directory) {
  rk::SideTable side;
  section.read("name", side.name);
  read_file(section, directory, side.file);
  section.read("key", side.key);
  section.read("column", side.column);
  section.read("unknown", side.unknown, {Choice<rk::UnknownKeys>{"refuse", rk::UnknownKeys::refuse}, {"missing", rk::UnknownKeys::missing}});
  return side;
}

inline rk::Split read_split(Section& section) {
  enum class By { fraction, order, column, hash } by{};
  section.read("by", by, {Choice<By>{"fraction", By::fraction}, {"order", By::order}, {"column", By::column}, {"hash", By::hash}});
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
  }
  Section section(root, file, "", 1);
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
  section.each("dense", "column", [&](Section& dense) { add(dense, schema.dense.emplace_back(), read_dense(dense)); });
  section.each("ids", "column", [&](Section& id) { add(id, schema.ids.emplace_back(), read_id(id)); });
  section.each("side_tables", "", [&](Section& side) { add(side, schema.side_tables.emplace_back(), read_side_table(side, directory)); });
  section.single("split", "by", [&](Section& split) { add(split, schema.split, read_split(split)); });
  section.done();
  section.checked([&] { rk::check_schema(schema); });
  return schema;
}

/// The schema in a TOML file. Relative paths of data lie in `directory`, or beside the TOML file where that is empty.
inline rk::TableSchema load_schema(const std::filesystem::path& path, const std::filesystem::path& directory = {}) {
  return parse_schema(rk::read_text(path.string()), path.string(), directory.empty() ? path.parent_path() : directory);
}

}  // namespace examples
