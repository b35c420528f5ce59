// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Batches of a table: what is in them, how ranks share them, in which order they come; and the real data sets.

#include <rookery/data/prefetch.hpp>
#include <rookery/data/table_reader.hpp>
#include <rookery/data/vocabulary.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/sparse/batch.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/train/evaluate.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::Folder;

namespace {

/// `rows` rows whose dense column is their number, with a one-hot, a multi-hot (empty in every third row) and an always empty feature.
std::shared_ptr<const Table> numbered(std::int64_t rows, const Split& split = SplitByFraction{.train = 1.0}) {
  Folder folder;
  std::string text = "y,row,tags,none\n";
  for (std::int64_t row = 0; row < rows; ++row)
    text += concat(row % 2, ",", row, ",", row % 3 == 0 ? "" : row % 3 == 1 ? "1" : "2|1", ",\n");
  return read_table({.file = {.paths = {folder.write("t.csv", text)}},
                     .label = {.column = "y"},
                     .dense = {{.column = "row"}, {.column = "row", .name = "half", .divide = 2}},
                     .ids = {{.column = "row", .rows = IdRows::number, .num_embeddings = 1000},
                             {.column = "tags", .separator = "|", .rows = IdRows::number, .num_embeddings = 3},
                             {.column = "none", .separator = "|", .rows = IdRows::hashed, .num_embeddings = 5}},
                     .split = split});
}

/// The numbers of a batch's rows.
std::vector<std::int64_t> rows_in(const TableBatch& batch) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < batch.size(); ++i) rows.push_back(batch.dense[i][0].item<std::int64_t>());
  return rows;
}

/// A model that predicts what the first dense column says.
struct Scores {
  struct Output {
    at::Tensor predictions;  // [B]
  };
  Output predict(const TableBatch& batch) const { return {batch.dense.select(1, 0)}; }
  Local& topology() { return topology_; }
  Local topology_ = {};
};

std::vector<std::vector<std::int64_t>> batches_in(TableEpoch epoch) {
  std::vector<std::vector<std::int64_t>> batches;
  for (const TableBatch& batch : epoch) batches.push_back(rows_in(batch));
  return batches;
}

std::vector<std::int64_t> joined(const std::vector<std::vector<std::int64_t>>& batches) {
  std::vector<std::int64_t> rows;
  for (const auto& batch : batches) rows.insert(rows.end(), batch.begin(), batch.end());
  return rows;
}

bool equal(const TableBatch& a, const TableBatch& b) {
  return at::equal(a.dense, b.dense) && at::equal(a.labels, b.labels) && at::equal(a.weights, b.weights) && a.ids.keys() == b.ids.keys() &&
         at::equal(a.ids.values(), b.ids.values()) && at::equal(a.ids.lengths(), b.ids.lengths());
}

/// One batch out of the slices of all ranks.
TableBatch put_together(const std::vector<TableBatch>& slices) {
  std::vector<at::Tensor> dense, labels, weights;
  for (const auto& slice : slices) {
    dense.push_back(slice.dense);
    labels.push_back(slice.labels);
    weights.push_back(slice.weights);
  }
  std::vector<at::Tensor> values, lengths;
  const auto keys = slices[0].ids.keys();
  for (const auto& key : keys)
    for (const auto& slice : slices) {
      values.push_back(slice.ids[key].values());
      lengths.push_back(slice.ids[key].lengths());
    }
  const auto labelled = at::cat(labels);  // [B]
  return {at::cat(dense), labelled, at::cat(weights),
          KeyedJaggedTensor::from_lengths(keys, at::cat(values), at::cat(lengths), {}, labelled.size(0))};
}

}  // namespace

TEST_SUITE("data/table_reader") {
  TEST_CASE("a batch holds its rows' dense values, labels, weights of one, and a key for each id column") {
    const TableReader reader{numbered(5, SplitByOrder{.columns = {"row"}, .train = std::int64_t{2}}), {.batch_size = 8}};
    CHECK(reader.dense_names() == std::vector<std::string>{"row", "half"});
    const auto features = reader.features();
    CHECK(features.size() == 3);
    CHECK(features[0].name == "row");
    CHECK(features[0].num_embeddings == 1000);
    CHECK(!features[0].is_multi_hot);
    CHECK(features[1].is_multi_hot);
    auto epoch = reader.epoch(Part::test);
    const auto batch = *epoch.next();
    CHECK(batch.size() == 3);
    CHECK(at::equal(batch.dense, at::tensor({2.0F, 1.0F, 3.0F, 1.5F, 4.0F, 2.0F}).view({3, 2})));
    CHECK(at::equal(batch.labels, at::tensor({0.0F, 1.0F, 0.0F})));
    CHECK(at::equal(batch.weights, at::ones({3})));
    CHECK((batch.weights.scalar_type() == at::kFloat));
    CHECK(batch.ids.keys() == std::vector<std::string>{"row", "tags", "none"});
    CHECK(at::equal(batch.ids.values(), at::tensor({2, 3, 4, 2, 1, 1}, at::kLong)));
    CHECK(at::equal(batch.ids.lengths(), at::tensor({1, 1, 1, 2, 0, 1, 0, 0, 0}, at::kLong)));
    CHECK(!epoch.next());
    CHECK(!epoch.next());
  }

  TEST_CASE("several labels are columns of a batch's labels, and a weight column is its weights") {
    Folder folder;
    const TableReader reader{{.file = {.paths = {folder.write("t.csv", "a,b,n,x\n1,0,2,7\n0,1,0.5,8\n")}},
                              .labels = {{.column = "b"}, {.column = "a", .name = "first"}},
                              .weight = "n",
                              .dense = {{.column = "x"}},
                              .split = SplitByColumn{.column = "x", .train = {"7", "8"}, .test = {"7", "8"}}}, {}};
    CHECK(reader.label_names() == std::vector<std::string>{"b", "first"});
    const auto batch = *reader.epoch(Part::test).next();
    CHECK(at::equal(batch.labels, at::tensor({0.0F, 1.0F, 1.0F, 0.0F}).view({2, 2})));
    CHECK(at::equal(batch.weights, at::tensor({2.0F, 0.5F})));
    CHECK(slice(batch, 1, 2).size() == 1);
  }

  TEST_CASE("a group column is a batch's groups: its numbers, or hashes of its texts") {
    Folder folder;
    const auto file = folder.write("t.csv", "y,user,n,x\n1,ann,7,.9\n0,bob,-7,.1\n0,ann,9223372036854775808,.2\n1,,7,.8\n");
    TableSchema schema{.file = {.paths = {file}},
                       .label = {.column = "y"},
                       .group = {.column = "user"},
                       .dense = {{.column = "x"}},
                       .ids = {{.column = "user"}},
                       .split = SplitByFraction{.train = 1.0, .validation = 1.0, .validation_in_train = true}};
    const auto groups_of = [&](std::int64_t rank, std::int64_t world) {
      const TableReader reader{schema, {.batch_size = 4, .rank = rank, .world_size = world}};
      return reader.epoch(Part::validation).next()->groups;
    };
    const auto hash = [](std::string_view text) { return static_cast<std::int64_t>(fnv1a(text)); };
    CHECK(at::equal(groups_of(0, 1), at::tensor({hash("ann"), hash("bob"), hash("ann"), hash("")}, at::kLong)));
    CHECK(at::equal(groups_of(1, 2), at::tensor({hash("ann"), hash("")}, at::kLong)));
    CHECK(groups_of(4, 5).sizes() == at::IntArrayRef{0});
    const auto batch = *TableReader{schema, {}}.epoch(Part::validation).next();
    CHECK(at::equal(slice(batch, 1, 3).groups, batch.groups.slice(0, 1, 3)));
    Scores scores;                                              // ann's two rows are ranked right; bob and nobody have one each
    CHECK(evaluate(scores, TableReader{schema, {.batch_size = 1}}.epoch(Part::validation), Gauc{}).value() == 1);
    schema.group.column = "n";
    const std::int64_t seven = 7;
    CHECK(at::equal(groups_of(0, 1), at::tensor({seven, -seven, hash("9223372036854775808"), seven}, at::kLong)));
    schema.group.column = "";
    CHECK(!groups_of(0, 1).defined());
    schema.group.column = "usr";
    CHECK(cases::message_of([&] { groups_of(0, 1); }) ==
          concat("group 'usr': there is no such column in ", file, "; did you mean 'user'?"));
  }

  TEST_CASE("without labels a table is scored: label columns may lack, no row need train, batches have no labels") {
    Folder folder;
    TableSchema schema{.file = {.paths = {folder.write("t.csv", "user,x\nu1,1\nu2,2\nu1,3\n")}},
                       .label = {.column = "clicked"},
                       .has_label = false,
                       .group = {.column = "user"},
                       .dense = {{.column = "x"}},
                       .ids = {{.column = "user", .rows = IdRows::hashed, .num_embeddings = 10}},
                       .split = SplitByOrder{.columns = {"(row)"}, .train = 0.0}};
    for (const bool described : {true, false}) {
      if (!described) schema.label = {};
      const TableReader reader{schema, {.batch_size = 2}};
      CHECK(reader.label_names().empty());
      CHECK(reader.rows(Part::test) == 3);
      auto epoch = reader.epoch(Part::test);
      const auto first = *epoch.next(), second = *epoch.next();
      CHECK(!first.labels.defined());
      CHECK(at::equal(first.dense, at::tensor({1.0F, 2.0F}).view({2, 1})));
      CHECK(at::equal(second.dense, at::tensor({3.0F}).view({1, 1})));
      CHECK(second.size() == 1);
      CHECK(!slice(first, 1, 2).labels.defined());
      CHECK(slice(first, 1, 2).size() == 1);
    }
    schema.has_label = true;
    CHECK(cases::message_of([&] { read_table(schema); }) ==
          "label: no column is given; data without labels is read with has_label = false");
  }

  TEST_CASE("rank_slice: nearly equal slices in rank order that cover the batch, the first ranks with one more") {
    for (std::int64_t rows = 0; rows < 40; ++rows)
      for (std::int64_t world = 1; world < 9; ++world) {
        std::int64_t at = 0, last = rows;
        for (std::int64_t rank = 0; rank < world; ++rank) {
          const auto [begin, end] = rank_slice(rows, rank, world);
          CHECK(begin == at);
          CHECK(end - begin <= last);
          CHECK(end - begin >= rows / world);
          last = end - begin;
          at = end;
        }
        CHECK(at == rows);
      }
  }

  TEST_CASE("law: the slices of all ranks are the batch that one process sees, for any world size, batch size and window") {
    const auto table = numbered(53, SplitByOrder{.columns = {"row"}, .train = std::int64_t{41}});
    for (const std::int64_t batch_size : {1, 3, 10, 41, 100})
      for (const std::int64_t world : {1, 2, 3, 5})
        for (const std::int64_t window : {0, 9})
          for (const auto part : {Part::train, Part::test}) {
            TableReaderOptions options{.batch_size = batch_size, .seed = 7, .shuffle_rows = window};
            auto whole = TableReader{table, options}.epoch(part, 3);
            std::vector<TableEpoch> ranks;
            options.world_size = world;
            for (options.rank = 0; options.rank < world; ++options.rank) ranks.push_back(TableReader{table, options}.epoch(part, 3));
            std::int64_t batches = 0;
            for (const TableBatch& batch : whole) {
              std::vector<TableBatch> slices;
              for (auto& rank : ranks) slices.push_back(rank.next().value());
              CHECK(equal(put_together(slices), batch));
              ++batches;
            }
            for (auto& rank : ranks) CHECK(!rank.next());
            options.rank = 0;
            CHECK(TableReader(table, options).batches(part) == batches);
          }
  }

  TEST_CASE("the training part comes whole and in a new order every epoch, the same for the same seed and epoch") {
    const auto table = numbered(100);
    const TableReader reader{table, {.batch_size = 7, .seed = 7}}, other{table, {.batch_size = 7, .seed = 8}},
        larger{table, {.batch_size = 30, .seed = 7}};
    const auto first = joined(batches_in(reader.epoch(Part::train, 0)));
    CHECK(first == joined(batches_in(reader.epoch(Part::train, 0))));
    CHECK(first == joined(batches_in(larger.epoch(Part::train, 0))));
    CHECK(first != joined(batches_in(reader.epoch(Part::train, 1))));
    CHECK(first != joined(batches_in(other.epoch(Part::train, 0))));
    CHECK(std::set(first.begin(), first.end()).size() == 100);
    CHECK(first.size() == 100);
    CHECK(!std::ranges::is_sorted(first));
  }

  TEST_CASE("the evaluation parts come in the order of the file, whatever the epoch") {
    const TableReader reader{numbered(50, SplitByHash{.terms = {{.column = "row", .multiplier = 7}}, .validation = {7}}),
                             {.batch_size = 4}};
    for (const auto part : {Part::validation, Part::test})
      for (const std::uint64_t epoch : {0, 1}) {
        const auto rows = joined(batches_in(reader.epoch(part, epoch)));
        CHECK(rows == reader.table()->part(part));
        CHECK(std::ranges::is_sorted(rows));
      }
  }

  TEST_CASE("the last batch is kept, or left out of training by drop_last; evaluation keeps every row") {
    const auto table = numbered(30, SplitByOrder{.columns = {"row"}, .train = std::int64_t{23}});
    const TableReader keep{table, {.batch_size = 5}}, drop{table, {.batch_size = 5, .drop_last = true}};
    CHECK(keep.batches(Part::train) == 5);
    CHECK(batches_in(keep.epoch(Part::train)).back().size() == 3);
    CHECK(drop.batches(Part::train) == 4);
    CHECK(batches_in(drop.epoch(Part::train)).size() == 4);
    CHECK(joined(batches_in(drop.epoch(Part::test))).size() == 7);
    CHECK(drop.batches(Part::test) == 2);
  }

  TEST_CASE("B3 an empty slice, a feature empty for all rows and an empty part are batches like others") {
    const auto table = numbered(6);
    std::vector<std::int64_t> sizes;
    for (std::int64_t rank = 0; rank < 4; ++rank) {
      const TableReader reader{table, {.batch_size = 4, .rank = rank, .world_size = 4}};
      auto epoch = reader.epoch(Part::train);
      for (const TableBatch& batch : epoch) {
        sizes.push_back(batch.size());
        CHECK(batch.dense.sizes() == at::IntArrayRef{batch.size(), 2});
        CHECK(batch.weights.numel() == batch.size());
        CHECK(batch.ids.keys().size() == 3);
        CHECK(batch.ids.stride() == batch.size());
        CHECK(batch.ids["none"].values().numel() == 0);
        CHECK(batch.ids["none"].lengths().numel() == batch.size());
      }
    }
    CHECK(sizes == std::vector<std::int64_t>{1, 1, 1, 1, 1, 0, 1, 0});
    const TableReader reader{table, {.batch_size = 4}};
    CHECK(reader.rows(Part::test) == 0);
    CHECK(reader.batches(Part::test) == 0);
    CHECK(batches_in(reader.epoch(Part::test)).empty());
  }

  TEST_CASE("B2 offsets of every batch start at 0, never decrease and end at the number of ids") {
    const TableReader reader{numbered(64), {.batch_size = 9}};
    for (const TableBatch& batch : reader.epoch(Part::train)) {
      const auto* offset = batch.ids.offsets().const_data_ptr<std::int64_t>();
      const auto last = batch.ids.offsets().numel() - 1;
      CHECK(offset[0] == 0);
      CHECK(std::is_sorted(offset, offset + last + 1));
      CHECK(offset[last] == batch.ids.values().numel());
    }
  }

  TEST_CASE("a batch moves and is sliced through its members") {
    const TableReader reader{numbered(12), {.batch_size = 12}};
    auto epoch = reader.epoch(Part::train);
    const auto batch = *epoch.next();
    CHECK(equal(to(batch, at::kCPU), batch));
    CHECK(equal(put_together({slice(batch, 0, 5), slice(batch, 5, 5), slice(batch, 5, 12)}), batch));
  }

  TEST_CASE("prefetched batches are the reader's; a table outlives its readers") {
    std::optional<TableReader> reader;
    reader.emplace(numbered(100), TableReaderOptions{.batch_size = 7, .seed = 7});
    auto plain = reader->epoch(Part::train, 2);
    auto ahead = prefetch(reader->epoch(Part::train, 2), 3);
    reader.reset();
    for (TableBatch& batch : ahead) CHECK(equal(batch, *plain.next()));
    CHECK(!plain.next());
  }

  TEST_CASE("a schema without dense or without id columns gives tensors of width 0") {
    Folder folder;
    TableSchema schema{.file = {.paths = {folder.write("t.csv", "y,x\n1,5\n0,6\n")}}, .label = {.column = "y"}, .dense = {{.column = "x"}}};
    schema.split = SplitByFraction{.train = 1.0};
    for (const TableBatch& batch : TableReader(schema, {}).epoch(Part::train)) {
      CHECK(batch.dense.sizes() == at::IntArrayRef{2, 1});
      CHECK(batch.ids.keys().empty());
      CHECK(batch.ids.stride() == 2);
    }
    schema.ids = {{.column = "x"}};
    schema.dense.clear();
    for (const TableBatch& batch : TableReader(schema, {}).epoch(Part::train)) CHECK(batch.dense.sizes() == at::IntArrayRef{2, 0});
  }

  TEST_CASE("options that mean nothing are refused") {
    const auto table = numbered(4);
    const auto refusal = [&](const TableReaderOptions& options) { return cases::message_of([&] { TableReader(table, options); }); };
    CHECK(refusal({.batch_size = 0}) == "TableReader: batch_size 0 must be at least 1");
    CHECK(refusal({.rank = 2, .world_size = 2}) == "TableReader: rank 2 is not in a world of 2");
    CHECK(refusal({.rank = -1}) == "TableReader: rank -1 is not in a world of 1");
    CHECK(refusal({.shuffle_rows = -1}) == "TableReader: shuffle_rows -1 is negative");
  }

  TEST_CASE("D4 MovieLens ratings.csv as it is: half stars, CRLF, a split by time") {
    const auto path = cases::data_folder() / "ml-latest-small/ratings.csv";
    if (!std::filesystem::exists(path)) {
      MESSAGE("skipped: there is no " << path.string());
      return;
    }
    const TableReader reader{{.file = {.paths = {path.string()}},
                              .label = {.column = "rating"},
                              .ids = {{.column = "userId"}, {.column = "movieId"}},
                              .split = SplitByOrder{.columns = {"timestamp"}}},
                             {.batch_size = 100'000}};
    CHECK(reader.table()->rows() == 100'836);
    CHECK(reader.rows(Part::train) == 80'669);
    CHECK(reader.features()[0].num_embeddings == 610);
    CHECK(reader.features()[1].num_embeddings == 9'724);
    std::set<float> stars(reader.table()->labels().begin(), reader.table()->labels().end());
    CHECK(stars == std::set<float>{0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5});
  }
}
