// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// TableSchema: what a CSV or TSV file means. Which column is the label, which columns are dense inputs and ids, how text becomes
// a number or a row of a table, which side tables are joined, and which rows train, validate and test.
//
// A plain value, written with designated initialisers or read from TOML by examples/applications/schema_toml.hpp:
//   TableSchema{.file = {.paths = {"ratings.csv"}}, .label = {.column = "rating", .at_least = 4}, .ids = {{.column = "userId"}}}
// Source: stands in for the readers that TorchRec's examples write once per data set.  Include cost: none.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rookery {

/// Names that stand for no column of the file: the number of the row, from 0, and the path of the file that the row is in.
/// Splits may use them where they use a column.
inline constexpr std::string_view row_number = "(row)", file_path = "(file)";

/// Text of one table: one or several files of the same columns, read as if they were one.
struct TableFile {
  std::vector<std::string> paths = {};
  std::string separator = ",";             // one or more characters: "," or "\t" or "::" or ", "
  std::string quote = "\"";                // one character, or empty: no quoting
  bool has_header = true;                  // the first line of each file names its columns
  std::vector<std::string> columns = {};   // names, where there is no header; they replace it where there is one
  std::string name_ends_at = "";           // a header's names end here: ":" reads "user_id:token" as "user_id"
};

/// What the model is to predict. At most one comparison is set; with none the column's number is the label itself.
struct LabelColumn {
  std::string column = "";
  std::string name = "";                   // of the task, where there are several; empty: the column's
  std::optional<double> at_least = {};     // 1 where the number is >= this, else 0; the others likewise
  std::optional<double> above = {};
  std::optional<double> at_most = {};
  std::optional<double> below = {};
  std::vector<std::string> equals = {};    // 1 where the text is one of these
};

/// Which rows belong together, for metrics by group such as Gauc. The group's number is the integer that the text is, else FNV-1a of the
/// text, so that it is the same in every file and on every rank; rows without a text are a group too.
struct GroupColumn {
  std::string column = "";                 // of the main table, also one that is an id or dense column; empty: batches have no groups
};

/// What is done to a dense number x before the affine part.
enum class DenseTransform {
  none,
  log1p,                                   // log(1 + max(x, 0)): a negative number counts as 0, whatever else the file holds
  signed_log1p,                            // sign(x) * log(1 + |x|)
};

/// A number given to the model as (transform(x) - subtract) / divide.
struct DenseColumn {
  std::string column = "";                 // "age", or "users.age" where several side tables have one
  std::string name = "";                   // empty: the column's
  DenseTransform transform = DenseTransform::none;
  double subtract = 0;
  double divide = 1;
  std::vector<std::string> missing_texts = {""};   // what stands for "not there"
  std::optional<double> missing = {};      // the x of a missing number; where it is not set, a missing number is an error
};

/// Numbers put into buckets before they are looked up as tokens: floor(x / width), as text; with `zero_apart`, "0" for 0 and
/// 1 + floor(x / width) for all else; with `boundaries`, the number of them that are at most x.
struct Bucket {
  double width = 1;
  bool zero_apart = false;
  std::vector<double> boundaries = {};     // increasing; instead of the other two
};

/// Where the rows of an id column's table come from.
enum class IdRows {
  whole_file,       // one per token of the whole file that holds the column, in the order of their bytes; no statistic of labels enters
  training_part,    // one per token that a row of the training part has
  hashed,           // FNV-1a of `seed` and the token, modulo `num_embeddings`: hashed_row() of vocabulary.hpp
  number,           // the token is the row's number, from 0 to below `num_embeddings`
};

/// What becomes of a token that has no row: one that training did not have, a number outside the table, a missing text.
enum class UnknownIds {
  refuse,           // an error that names file, line, column and value
  own_row,          // one more row, the last one, stands for all of them
  empty_bag,        // it is left out; a row with nothing else looks nothing up
};

/// A column whose tokens are rows of an embedding table. The same column may be used several times, under different names.
///
/// Text becomes tokens in this order: split at `separator`, cut to `first_characters`, put into a `bucket`.
struct IdColumn {
  std::string column = "";
  std::string name = "";                   // the feature's, and the key in the batch; empty: the column's
  std::string separator = "";              // not empty: a bag of tokens ("Action|Comedy"), empty ones left out
  std::int64_t first_characters = 0;       // 0: all of them; counts characters of UTF-8
  std::optional<Bucket> bucket = {};
  IdRows rows = IdRows::whole_file;
  std::int64_t num_embeddings = 0;         // for hashed and number only
  std::uint64_t seed = 0;                  // for hashed only
  std::vector<std::string> missing_texts = {};     // whole fields that stand for "not there"; empty: every text is a token, "" too
  std::optional<UnknownIds> unknown = {};  // not set: own_row with training_part, else refuse
};

/// What becomes of a row whose key the side table does not have.
enum class UnknownKeys {
  refuse,           // an error that names file, line, column and key
  missing,          // its columns are missing in that row: DenseColumn::missing and IdColumn::unknown say what to do
};

/// A table joined to the main one by a key, such as users or items. Its columns are used like the main table's.
struct SideTable {
  std::string name = "";                   // "users": its columns are "users.age", or "age" where no other table has one
  TableFile file = {};
  std::string key = "";                    // the column of the side table that holds the key; no two rows may have the same
  std::string column = "";                 // the column of the main table that holds it; empty: `key` there too
  UnknownKeys unknown = UnknownKeys::refuse;
};

/// A share of the rows (0.8) or a number of them (80000).
using Share = std::variant<double, std::int64_t>;

/// Rows sorted by columns of numbers or of ISO dates (2020-01-31, 2020-01-31 23:59:59), ties in file order: first the training part, then
/// validation, the rest is the test part.
struct SplitByOrder {
  std::vector<std::string> columns = {};
  Share train = 0.8;
  Share validation = 0.0;
  bool validation_in_train = false;        // validation is the end of the training part, and trained on as well
};

/// As SplitByOrder, in a random order that depends on the seed and the number of rows only.
struct SplitByFraction {
  Share train = 0.8;
  Share validation = 0.0;
  bool validation_in_train = false;
  std::uint64_t seed = 0;
};

/// A column says which part a row is in; a text may be in several lists, and one in none of them is an error.
struct SplitByColumn {
  std::string column = "";
  std::vector<std::string> train = {};
  std::vector<std::string> validation = {};
  std::vector<std::string> test = {};
};

/// One summand of a split's hash: (integer of the column + add) * multiplier.
struct HashTerm {
  std::string column = "";
  std::uint64_t multiplier = 1;
  std::uint64_t add = 0;
};

/// ((sum of terms mod 2^32) >> shift) mod modulus says which part a row is in. A residue may be in several lists and must be in one.
struct SplitByHash {
  std::vector<HashTerm> terms = {};
  std::int64_t shift = 0;
  std::int64_t modulus = 10;
  std::vector<std::int64_t> train = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<std::int64_t> validation = {};
  std::vector<std::int64_t> test = {8, 9};
};

using Split = std::variant<SplitByFraction, SplitByOrder, SplitByColumn, SplitByHash>;

/// The parts of a table's rows. They may overlap where the split says so.
enum class Part { train, validation, test };

/// The name of a part, for messages and logs.
constexpr std::string_view to_string(Part part) {
  return part == Part::train ? "train" : part == Part::validation ? "validation" : "test";
}

/// A table of examples: where it lies and what its columns mean.
struct TableSchema {
  TableFile file = {};
  LabelColumn label = {};
  std::vector<LabelColumn> labels = {};    // instead of `label`: one for each task, found again by name
  bool has_label = true;                   // false: label columns are not read and may lack, batches have no labels, no row need train
  GroupColumn group = {};
  std::string weight = "";                 // column of the rows' weights, numbers from 0 up; empty: every row weighs 1
  std::vector<DenseColumn> dense = {};
  std::vector<IdColumn> ids = {};
  std::vector<SideTable> side_tables = {};
  Split split = SplitByFraction{};
};

}  // namespace rookery
