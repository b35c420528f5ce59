// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Table: a CSV or TSV file with its side tables, read once and kept as columns of numbers. A side table's columns are kept once per row
// of the side table; a row of the main table finds its row there through the join.
//
// Torch-free. read_table makes one; TableReader cuts it into batches.  Include cost: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/data/table_schema.hpp>

namespace rookery {

/// What an embedding table for an id column needs to know.
struct TableFeature {
  std::string name;
  std::int64_t num_embeddings = 0;
  bool is_multi_hot = false;
  std::int64_t unknown_ids = 0;              // tokens of its file that have no row of their own: in the own_row, or left out
};

/// A dense column. `table` is 0 for the main table, i + 1 for side table i; so it is below.
struct DenseData {
  std::string name;
  std::size_t table = 0;
  std::vector<float> values;                 // of each row of that table
};

/// An id column: for each row of its table a bag of rows of the embedding table.
struct IdData {
  TableFeature feature;
  std::size_t table = 0;
  std::vector<std::int64_t> ids;             // all bags, one after the other
  std::vector<std::int64_t> offsets;         // where each bag starts, and the end; empty where every bag has one id

  std::span<const std::int64_t> bag(std::size_t row) const {
    if (offsets.empty()) return {ids.data() + row, 1};
    return {ids.data() + offsets[row], ids.data() + offsets[row + 1]};
  }
};

/// The table in memory; never changed once it is read, so that ranks of one process may share it.
class Table {
 public:
  struct Columns {
    std::int64_t rows = 0;                           // of the main table
    std::vector<std::string> label_names;            // one or several; none for data without labels
    std::vector<float> labels;                       // [row of the main table][label]
    std::vector<float> weights;                      // of each row; empty: all 1
    std::vector<std::int64_t> groups;                // of each row; empty: there are none
    std::vector<DenseData> dense;
    std::vector<IdData> ids;
    std::vector<std::vector<std::int64_t>> joins;    // [side table][row]: its row in that side table
    std::array<std::vector<std::int64_t>, 3> parts;  // [part]: its rows, in the order of the file
  };
  explicit Table(Columns columns) : columns_(std::move(columns)) {}

  std::int64_t rows() const { return columns_.rows; }
  std::int64_t rows(Part of) const { return static_cast<std::int64_t>(part(of).size()); }
  /// The rows of a part, in the order of the file.
  const std::vector<std::int64_t>& part(Part of) const { return columns_.parts[static_cast<std::size_t>(of)]; }
  const std::vector<std::string>& label_names() const { return columns_.label_names; }
  const std::vector<float>& labels() const { return columns_.labels; }
  const std::vector<float>& weights() const { return columns_.weights; }
  const std::vector<std::int64_t>& groups() const { return columns_.groups; }
  const std::vector<DenseData>& dense() const { return columns_.dense; }
  const std::vector<IdData>& ids() const { return columns_.ids; }
  /// The row of a table (0: the main one, i + 1: side table i) that belongs to a row of the main one.
  std::size_t row_in(std::size_t table, std::int64_t row) const {
    return static_cast<std::size_t>(table == 0 ? row : columns_.joins[table - 1][static_cast<std::size_t>(row)]);
  }

 private:
  Columns columns_;
};

}  // namespace rookery
