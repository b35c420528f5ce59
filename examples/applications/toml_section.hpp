// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Section: a table of a TOML file, read key by key. What is misspelt or of another type is a ConfigError of one sentence that starts with
// `file.toml:line:` and, for a misspelt key, names the one that was meant.

#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/suggest.hpp>
#include <rookery/data/table_schema.hpp>

namespace examples {

/// What toml++ throws where it would end the program: some texts that are not TOML, such as `[` alone on a line, fail its assertions.
struct TomlAssertion {};
[[noreturn]] inline void fail_toml() { throw TomlAssertion(); }

}  // namespace examples

#pragma push_macro("NDEBUG")
#undef NDEBUG  // with it toml++ would take for granted what it asserts
#define TOML_ASSERT(holds) (static_cast<bool>(holds) ? void() : ::examples::fail_toml())
#include <toml++/toml.h>
#pragma pop_macro("NDEBUG")

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
  void read(std::string_view key, std::vector<double>& values) {
    const auto* node = find(key);
    if (!node) return;
    if (!node->is_array()) fail(*node, "'", key, "' must be a list of numbers, not ", kind_of(*node));
    values.clear();
    for (const auto& element : *node->as_array()) values.push_back(number(key, element));
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

  /// Refuses unknown keys, then what `fn()` refuses, with the line of this section.
  template <class Fn> void checked(Fn&& fn) const {
    done();
    try {
      fn();
    } catch (const rk::ConfigError& error) {
      rk::fail<rk::ConfigError>(file_, line_ ? rk::concat(":", line_) : "", ": ", error.what());
    }
  }

  /// Refuses keys that nothing has asked for.
  void done() const {
    for (const auto& [key, node] : *table_) {
      const std::vector<std::string> known(asked_.begin(), asked_.end());
      if (!asked_.contains(std::string(key.str())))
        fail_at(key.source().begin.line, "unknown key '", key.str(), "'", rk::suggestion(key.str(), known));
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
    const auto path = rk::concat(name_, name_.empty() ? "" : ".", key);
    Section section(node.is_table() ? *node.as_table() : shorthand, file_, path, node.source().begin.line);
    fn(section);
    section.done();
  }

  const toml::table* table_;
  std::string file_, name_;
  toml::source_index line_;
  std::set<std::string> asked_;
};

}  // namespace examples
