// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A plan as JSON: saved by one run and loaded by another, or written by hand in a line a table.
//
//   {"tables": {"user_id": {"kind": "row_wise"},
//               "item_id": {"kind": "table_wise", "ranks": [1]}}}
//
// A table has either "kind", with "ranks" and "min_partition" where wanted, or "shards", each with "rank", and with "rows" and "columns"
// from the first to the one behind the last; both may be "hierarchical". A saved plan also says what its tables are, so that it can be
// read without the model.
// Answers to the sharding plans that torchrec users pickle.  Include cost: tensor and nlohmann/json.

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/replace_file.hpp>
#include <rookery/planner/plan.hpp>

namespace rookery {

namespace detail {

/// An object whose keys are in the text's order, each there once.
template <class Key, class Value, class Less, class Allocator>
struct DistinctKeys : nlohmann::ordered_map<Key, Value, Less, Allocator> {
  using nlohmann::ordered_map<Key, Value, Less, Allocator>::ordered_map;

  Value& operator[](const Key& key) {
    const auto [at, is_new] = this->emplace(key, Value{});
    check<DataError>(is_new, "key '", key, "' is given twice in one object");
    return at->second;
  }
};
using Json = nlohmann::basic_json<DistinctKeys>;

inline constexpr std::array<std::pair<std::string_view, at::ScalarType>, 4> table_dtypes{
    {{"float32", at::kFloat}, {"float64", at::kDouble}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}}};

/// Where a value is, as in tables['user_id'].ranks[1]; put into words only where something is wrong with it.
struct JsonPath {
  const JsonPath* above = nullptr;
  std::string_view key{};
  std::size_t index = 0;                 // of a list, where there is no key

  std::string text() const {
    if (!above) return std::string(key);
    if (key.data() == nullptr) return concat(above->text(), "[", index, "]");
    return above->key == "tables" && !above->above ? concat("tables['", key, "']") : concat(above->text(), ".", key);
  }
};

/// What a plan's JSON holds, taken value by value; every mistake is a DataError of one sentence with the path to the value.
class PlanReader {
 public:
  explicit PlanReader(std::string_view file) : file_(file) {}

  Plan read(std::string_view text) const {
    const auto root = parse(text);
    keys({}, root, {"version", "world_size", "tables"});
    if (root.contains("version")) number({nullptr, "version"}, root["version"], 1, 1);
    Plan plan;
    if (root.contains("world_size")) plan.world_size = static_cast<int>(number({nullptr, "world_size"}, root["world_size"], 1, most_ranks));
    const auto& tables = required({}, root, "tables");
    const JsonPath path{nullptr, "tables"};
    object(path, tables);
    if (tables.empty() && plan.world_size == 0) refuse(path, "there are none");
    for (const auto& [name, table] : tables.items()) read_table({&path, name}, table, plan);
    check_described(plan);
    return plan;
  }

 private:
  static constexpr std::int64_t most_ranks = 1 << 20, most = std::numeric_limits<std::int64_t>::max();

  template <class... Parts> [[noreturn]] void refuse(const JsonPath& path, const Parts&... parts) const {
    fail<DataError>(file_, ": ", path.text(), path.key.empty() && !path.above ? "" : ": ", parts...);
  }

  Json parse(std::string_view text) const {
    try {
      return Json::parse(text);
    } catch (const DataError& error) {
      fail<DataError>(file_, ": ", error.what());
    } catch (const Json::parse_error& error) {
      const auto before = text.substr(0, std::min(text.size(), error.byte > 0 ? error.byte - 1 : 0));
      const auto line = std::count(before.begin(), before.end(), '\n') + 1;
      const auto start = before.rfind('\n');                     // npos + 1 is 0
      fail<DataError>(file_, ":", line, ":", before.size() - (start + 1) + 1, ": this is not JSON");
    } catch (const Json::exception&) {
      fail<DataError>(file_, ": it has a number that is too large");
    }
  }

  static std::string_view kind_of(const Json& value) {
    switch (value.type()) {
      case Json::value_t::object: return "an object";
      case Json::value_t::array: return "a list";
      case Json::value_t::string: return "a text";
      case Json::value_t::boolean: return "true or false";
      case Json::value_t::null: return "null";
      default: return "a number";
    }
  }
  void object(const JsonPath& path, const Json& value) const {
    if (!value.is_object()) refuse(path, "must be an object, not ", kind_of(value));
  }
  void keys(const JsonPath& path, const Json& value, std::initializer_list<std::string_view> known) const {
    object(path, value);
    for (const auto& one : value.items())
      if (std::find(known.begin(), known.end(), one.key()) == known.end())
        refuse(path, "unknown key '", one.key(), "'; there are ", std::vector<std::string_view>(known));
  }
  const Json& required(const JsonPath& path, const Json& value, const char* key) const {
    const auto found = value.find(key);
    if (found == value.end()) refuse(path, "'", key, "' is missing");
    return *found;
  }
  std::string text(const JsonPath& path, const Json& value) const {
    if (!value.is_string()) refuse(path, "must be a text, not ", kind_of(value));
    return value.get<std::string>();
  }
  std::int64_t number(const JsonPath& path, const Json& value, std::int64_t least, std::int64_t largest) const {
    if (!value.is_number()) refuse(path, "must be a whole number, not ", kind_of(value));
    const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest)
                                                 : value.is_number_integer() && value.get<std::int64_t>() <= largest;
    if (!fits || value.get<std::int64_t>() < least)
      refuse(path, "is ", value.dump(), "; it must be a whole number from ", least, largest == most ? " on" : concat(" to ", largest));
    return value.get<std::int64_t>();
  }
  const Json& list(const JsonPath& path, const Json& value) const {
    if (!value.is_array()) refuse(path, "must be a list, not ", kind_of(value));
    return value;
  }
  int rank(const JsonPath& path, const Json& value) const { return static_cast<int>(number(path, value, 0, most_ranks - 1)); }
  /// [first, behind the last].
  std::pair<std::int64_t, std::int64_t> range(const JsonPath& path, const Json& value) const {
    if (list(path, value).size() != 2) refuse(path, "must be two numbers, the first and the one behind the last; there are ", value.size());
    const auto begin = number({&path, {}, 0}, value[0], 0, most);
    return {begin, number({&path, {}, 1}, value[1], begin, most)};
  }

  void read_table(const JsonPath& path, const Json& value, Plan& plan) const {
    keys(path, value, {"kind", "ranks", "min_partition", "shards", "hierarchical", "table", "num_embeddings", "embedding_dim", "data_type",
                       "rule", "state_numbers_per_row"});
    TablePlan table{.table = std::string(path.key)};
    const bool by_kind = value.contains("kind");
    if (by_kind && value.contains("shards")) refuse(path, "has both 'kind' and 'shards'");
    if (!by_kind && !value.contains("shards"))
      refuse(path, "does not say where the table goes; give it a 'kind', one of ", sharding_kind_names, ", or a list of 'shards'");
    for (const auto* key : {"ranks", "min_partition"})
      if (!by_kind && value.contains(key)) refuse(path, "has '", key, "', which goes with 'kind', not with 'shards'");
    if (by_kind) {
      const JsonPath at{&path, "kind"};
      const auto kind = text(at, value["kind"]);
      const auto found = std::find(sharding_kind_names.begin(), sharding_kind_names.end(), kind);
      if (found == sharding_kind_names.end()) refuse(at, "is '", kind, "'; kinds are ", sharding_kind_names);
      table.kind = static_cast<ShardingKind>(found - sharding_kind_names.begin());
      if (const JsonPath ranks{&path, "ranks"}; value.contains("ranks"))
        for (const auto& one : list(ranks, value["ranks"])) table.ranks.push_back(rank({&ranks, {}, table.ranks.size()}, one));
      if (value.contains("min_partition")) table.min_partition = number({&path, "min_partition"}, value["min_partition"], 0, 1 << 30);
    } else {
      const JsonPath shards{&path, "shards"};
      table.shards.reserve(list(shards, value["shards"]).size());
      for (const auto& one : value["shards"]) {
        const JsonPath at{&shards, {}, table.shards.size()};
        keys(at, one, {"rank", "rows", "columns"});
        const auto [row_begin, row_end] = range({&at, "rows"}, required(at, one, "rows"));
        const auto [column_begin, column_end] = range({&at, "columns"}, required(at, one, "columns"));
        table.shards.push_back({{row_begin, row_end, column_begin, column_end}, rank({&at, "rank"}, required(at, one, "rank"))});
      }
      if (table.shards.empty()) refuse(shards, "there are none; a table has one at least");
    }
    if (const auto found = value.find("hierarchical"); found != value.end()) {
      if (!found->is_boolean()) refuse({&path, "hierarchical"}, "must be true or false, not ", kind_of(*found));
      table.hierarchical = found->get<bool>();
    }
    plan.tables.push_back(std::move(table));
    if (value.contains("num_embeddings")) plan.descriptions.push_back(read_description(path, value));
    else
      for (const auto* key : {"table", "embedding_dim", "data_type", "rule", "state_numbers_per_row"})
        if (value.contains(key)) refuse(path, "has '", key, "' and no 'num_embeddings'");
  }

  TableDescription read_description(const JsonPath& path, const Json& value) const {
    const auto size = [&](const char* key, std::int64_t least) {
      return number({&path, key}, required(path, value, key), least, most);
    };
    const auto word = [&](const char* key) { return text({&path, key}, required(path, value, key)); };
    TableDescription described;
    described.name = path.key;
    described.table = word("table");
    described.num_embeddings = size("num_embeddings", 1);
    described.embedding_dim = size("embedding_dim", 1);
    described.rule = word("rule");
    described.state_numbers_per_row = size("state_numbers_per_row", 0);
    const auto dtype = word("data_type");
    const auto found = std::find_if(table_dtypes.begin(), table_dtypes.end(), [&](const auto& one) { return one.first == dtype; });
    if (found == table_dtypes.end()) refuse({&path, "data_type"}, "is '", dtype, "'; use float32, float64, float16 or bfloat16");
    described.data_type = found->second;
    return described;
  }

  /// What a file says of its tables fits the shards that it has for them.
  void check_described(const Plan& plan) const {
    if (plan.descriptions.empty()) return;
    if (plan.world_size == 0) refuse({}, "'world_size' is missing, where tables say what they are");
    check_bytes(plan.descriptions);
    auto described = plan.descriptions.begin();               // in the order of the tables, of which some are not described
    for (const auto& one : plan.tables) {
      if (described == plan.descriptions.end() || described->name != one.table) continue;
      if (!one.kind) check_cover(*described, one, plan.world_size);
      ++described;
    }
  }

  std::string_view file_;
};

}  // namespace detail

/// The plan that a JSON text says; `file` is its name in messages. Tables come in the text's order.
/// Errors: DataError for what is no JSON, has a key that is unknown or given twice, or a value of the wrong type, with the value's path;
///         PlanError and ConfigError, as of validate(), where it says what its tables are and its shards do not cover them.
inline Plan plan_from_json(std::string_view text, std::string_view file = "plan") { return detail::PlanReader(file).read(text); }

/// The plan as JSON, a line a shard: plan_from_json gives the same plan. Of its tables it has names, sizes, dtypes and what counts their
/// bytes, under the names that the plan has for them.
/// Errors: DataError for a name that is no UTF-8.
inline std::string plan_to_json(const Plan& plan) {
  using detail::Json;
  const auto quoted = [](const std::string& name) {
    try {
      return Json(name).dump();
    } catch (const Json::exception&) {
      fail<DataError>("plan_to_json: the name of a table is not UTF-8");
    }
  };
  std::string text = "{\n  \"version\": 1,\n";
  if (plan.world_size > 0) text += concat("  \"world_size\": ", plan.world_size, ",\n");
  text += "  \"tables\": {";
  std::string_view separator = "\n";
  for (const auto& table : plan.tables) {
    text += concat(separator, "    ", quoted(table.table), ": {");
    separator = ",\n";
    const auto described = std::find_if(plan.descriptions.begin(), plan.descriptions.end(),
                                        [&](const auto& one) { return one.name == table.table; });
    if (described != plan.descriptions.end() && plan.world_size > 0) {
      const auto dtype = std::find_if(detail::table_dtypes.begin(), detail::table_dtypes.end(),
                                      [&](const auto& one) { return one.second == described->data_type; });
      check<DataError>(dtype != detail::table_dtypes.end(), "plan_to_json: table '", table.table, "' has dtype ",
                       c10::toString(described->data_type));
      text += concat("\n      \"table\": ", quoted(described->table), ", \"num_embeddings\": ", described->num_embeddings,
                     ", \"embedding_dim\": ", described->embedding_dim, ", \"data_type\": \"", dtype->first, "\", \"rule\": ",
                     quoted(described->rule), ", \"state_numbers_per_row\": ", described->state_numbers_per_row, ",\n      ");
    }
    if (table.hierarchical) text += "\"hierarchical\": true, ";
    if (table.shards.empty() && table.kind) {
      text += concat("\"kind\": \"", to_string(*table.kind), "\"");
      if (!table.ranks.empty()) text += concat(", \"ranks\": ", table.ranks);
      if (table.min_partition > 0) text += concat(", \"min_partition\": ", table.min_partition);
      text += '}';
      continue;
    }
    text += "\"shards\": [";
    std::string_view between = "\n        ";
    for (const auto& [box, rank] : table.shards) {
      text += concat(between, "{\"rank\": ", rank, ", \"rows\": [", box.row_begin, ", ", box.row_end, "], \"columns\": [", box.column_begin,
                     ", ", box.column_end, "]}");
      between = ",\n        ";
    }
    text += "]}";
  }
  return text + (plan.tables.empty() ? "}\n}\n" : "\n  }\n}\n");
}

/// Writes the plan as JSON; the file is the old one or the new one, whole. Errors: DataError.
inline void save_plan(const std::string& path, const Plan& plan) { replace_file(path, plan_to_json(plan), "save_plan"); }

/// The plan in a JSON file, for ShardingOptions::plan. Errors: as of plan_from_json; DataError for a file that cannot be read.
inline Plan load_plan(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  for (char block[1 << 14]; file.read(block, sizeof block), file.gcount() > 0;) text.append(block, static_cast<std::size_t>(file.gcount()));
  check<DataError>(file.is_open() && !file.bad(), "load_plan: cannot read '", path, "'");
  return plan_from_json(text, path);
}

}  // namespace rookery
