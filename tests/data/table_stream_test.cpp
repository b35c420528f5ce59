// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A table that is never in memory gives the batches of one that is, in memory that does not grow with the file.

#include <rookery/data/file_blocks.hpp>
#include <rookery/data/id_columns.hpp>
#include <rookery/data/prefetch.hpp>
#include <rookery/data/table_batch.hpp>
#include <rookery/data/table_layout.hpp>
#include <rookery/data/table_reader.hpp>
#include <rookery/data/table_stream.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "data/files.hpp"
#include "support/peak_memory.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::Folder;
using cases::message_of;

namespace {

const SplitByHash by_row{.terms = {{.column = "(row)"}}, .train = {0, 1, 2, 3, 4, 5, 6}, .validation = {7}, .test = {8, 9}};

/// A main table with a column of each kind, joined to side tables of users and items.
TableSchema mixed(const Folder& folder, std::int64_t rows) {
  std::string text = "row,user,item,tags,minutes,liked,shared,count,part\r\n", users = "user,age,city\n", items = "item,kinds\n";
  for (std::int64_t row = 0; row < rows; ++row)
    text += concat(row, ",u", row * 7 % 31, ",i", row % 13, ",\"", row % 4 == 0 ? "" : concat("t", row % 5, "|t", row % 7), "\",",
                   row % 90, ".5,", row % 2, ",", row % 3 / 2, ",", row % 4, ",", row % 10 < 7 ? "a" : row % 10 < 8 ? "b" : "c", "\r\n");
  for (int user = 0; user < 30; ++user) users += concat("u", user, ",", 20 + user, ",city ", user % 5, "\n");
  for (int item = 0; item < 13; ++item) items += concat("i", item, ",k", item % 3, "|k", item % 4, "\n");
  return {.file = {.paths = {folder.write("main.csv", text)}},
          .labels = {{.column = "liked"}, {.column = "shared", .name = "share"}},
          .group = {.column = "user"},
          .weight = "count",
          .dense = {{.column = "row"}, {.column = "age", .divide = 10, .missing = 0.0}},
          .ids = {{.column = "user"},
                  {.column = "item", .name = "trained_item", .rows = IdRows::training_part},
                  {.column = "tags", .separator = "|", .rows = IdRows::training_part, .unknown = UnknownIds::empty_bag},
                  {.column = "minutes", .bucket = Bucket{.boundaries = {10, 20, 45}}},
                  {.column = "city", .unknown = UnknownIds::own_row},
                  {.column = "kinds", .separator = "|"},
                  {.column = "user", .name = "hashed", .rows = IdRows::hashed, .num_embeddings = 20}},
          .side_tables = {{.name = "users",
                           .file = {.paths = {folder.write("users.csv", users)}},
                           .key = "user",
                           .unknown = UnknownKeys::missing},
                          {.name = "items", .file = {.paths = {folder.write("items.csv", items)}}, .key = "item"}},
          .split = SplitByColumn{.column = "part", .train = {"a"}, .validation = {"b"}, .test = {"c"}}};
}

bool equal(const TableBatch& a, const TableBatch& b) {
  return at::equal(a.dense, b.dense) && at::equal(a.labels, b.labels) && at::equal(a.weights, b.weights) &&
         at::equal(a.groups, b.groups) && a.ids.keys() == b.ids.keys() && at::equal(a.ids.values(), b.ids.values()) &&
         at::equal(a.ids.lengths(), b.ids.lengths());
}

}  // namespace

TEST_SUITE("data/table_stream") {
  TEST_CASE("law: the evaluation parts are a TableReader's, batch by batch, and features and counts too") {
    const Folder folder;
    const auto schema = mixed(folder, 1000);
    for (const std::int64_t world : {1, 3})
      for (std::int64_t rank = 0; rank < world; ++rank) {
        const TableReaderOptions options{.batch_size = 64, .rank = rank, .world_size = world};
        const TableReader whole{schema, options};
        const TableStream stream{schema, options};
        CHECK(stream.dense_names() == whole.dense_names());
        CHECK(stream.label_names() == std::vector<std::string>{"liked", "share"});
        for (const auto part : {Part::train, Part::validation, Part::test}) {
          CHECK(stream.rows(part) == whole.rows(part));
          CHECK(stream.batches(part) == whole.batches(part));
        }
        for (std::size_t i = 0; i < whole.features().size(); ++i) {
          const auto wanted = whole.features()[i], got = stream.features()[i];
          CHECK(got.name == wanted.name);
          CHECK(got.num_embeddings == wanted.num_embeddings);
          CHECK(got.is_multi_hot == wanted.is_multi_hot);
          CHECK(got.unknown_ids == wanted.unknown_ids);
        }
        for (const auto part : {Part::validation, Part::test}) {
          auto wanted = whole.epoch(part);
          std::int64_t batches = 0;
          for (const TableBatch& batch : stream.epoch(part)) {
            CHECK(equal(batch, *wanted.next()));
            ++batches;
          }
          CHECK(batches == whole.batches(part));
        }
      }
  }

  TEST_CASE("without labels every row may be of the test part, and batches have no labels") {
    const Folder folder;
    auto schema = mixed(folder, 50);
    schema.has_label = false;
    schema.labels[0].column = "not there";
    schema.ids = {{.column = "user", .rows = IdRows::hashed, .num_embeddings = 20}};
    schema.split = SplitByHash{.terms = {{.column = "(row)"}}, .modulus = 1, .train = {}, .test = {0}};
    const TableStream stream{schema, {.batch_size = 20}};
    CHECK(stream.label_names().empty());
    auto wanted = TableReader{schema, {.batch_size = 20}}.epoch(Part::test);
    std::int64_t rows = 0;
    for (const TableBatch& batch : stream.epoch(Part::test)) {
      CHECK(!batch.labels.defined());
      CHECK(at::equal(batch.dense, wanted.next()->dense));
      rows += batch.size();
    }
    CHECK(rows == 50);
  }

  TEST_CASE("training rows come once an epoch, shuffled within shuffle_rows, and the same again for the same seed and epoch") {
    const Folder folder;
    const auto schema = mixed(folder, 1000);
    const auto rows_of = [&](std::uint64_t seed, std::uint64_t epoch, std::int64_t window) {
      const TableStream stream{schema, {.batch_size = 32, .seed = seed, .shuffle_rows = window}};
      std::vector<std::int64_t> rows;
      for (const TableBatch& batch : prefetch(stream.epoch(Part::train, epoch), 2))
        for (std::int64_t i = 0; i < batch.size(); ++i) rows.push_back(batch.dense[i][0].item<std::int64_t>());
      return rows;
    };
    const auto rows = rows_of(1, 0, 100);
    CHECK(rows.size() == 700);
    CHECK(std::set<std::int64_t>(rows.begin(), rows.end()).size() == 700);
    CHECK(rows == rows_of(1, 0, 100));
    CHECK(rows != rows_of(1, 1, 100));
    CHECK(rows != rows_of(2, 0, 100));
    // The first 128 training rows, four batches, are among the first 183 of the file.
    CHECK(*std::max_element(rows.begin(), rows.begin() + 128) < 183);
    CHECK(!std::ranges::is_sorted(rows));
    auto whole = rows_of(1, 0, 0);
    CHECK(*std::max_element(whole.begin(), whole.begin() + 128) > 183);
  }

  TEST_CASE("drop_last leaves out the last smaller batch of training") {
    const Folder folder;
    const TableStream stream{mixed(folder, 1000), {.batch_size = 64, .drop_last = true, .shuffle_rows = 64}};
    std::int64_t batches = 0;
    for (const TableBatch& batch : stream.epoch(Part::train)) {
      CHECK(batch.size() == 64);
      ++batches;
    }
    CHECK(batches == stream.batches(Part::train));
    CHECK(batches == 10);
  }

  TEST_CASE("splits that need the whole table are refused with what to write; a file that changed is refused") {
    const Folder folder;
    auto schema = mixed(folder, 50);
    schema.split = SplitByFraction{};
    CHECK(message_of([&] { TableStream(schema, {}); }) ==
          "TableStream: a split by fraction needs the whole table in memory; "
          "split by column, or by hash, of \"(row)\" where no column will do");
    schema.split = SplitByOrder{.columns = {"row"}};
    CHECK(message_of([&] { TableStream(schema, {}); }).starts_with("TableStream: a split by order needs the whole table"));

    const auto path = folder.write("t.csv", "y,user\n1,a\n0,b\n");
    const TableStream stream{{.file = {.paths = {path}},
                              .label = {.column = "y"},
                              .ids = {{.column = "user"}},
                              .split = SplitByColumn{.column = "user", .train = {"a", "b", "z"}}}, {}};
    folder.write("t.csv", "y,user\n1,a\n0,z\n");
    CHECK(message_of([&] { stream.epoch(Part::train).next(); }) ==
          path + ":3: column 'user': 'z' was not there when the file was first read");
  }

  TEST_CASE("law: records do not depend on how the file is cut into blocks") {
    const Folder folder;
    const std::string text = "\xEF\xBB\xBF" "a::\"b \"\"c\"\"\"::d\r\n\r\n\"x\r\ny\"::::\"\"\r\nlong " +
                             std::string(100, 'q') + "::1::2\n\n3::4::\"::\"";
    const auto path = folder.write("t.csv", text);
    const auto records = [&](CsvReader& reader, auto more) {
      std::vector<std::string> fields;
      while (reader.next() || more()) {
        for (const auto field : reader.fields()) fields.emplace_back(field);
        if (!reader.fields().empty()) fields.push_back(concat("line ", reader.line()));
      }
      return fields;
    };
    CsvReader whole(text, path, {"::", '"'});
    const auto wanted = records(whole, [] { return false; });
    CHECK(wanted.size() == 16);
    for (std::size_t block = 1; block < text.size() + 2; ++block) {
      FileBlocks file(path, block);
      CsvReader pieces(path, {"::", '"'});
      const auto more = [&] {
        if (file.ended()) return false;
        file.consume(file.text().size() - pieces.unread().size());
        file.read_more();
        pieces.give(file.text(), file.ended());
        return true;
      };
      file.read_more();
      pieces.give(file.text(), file.ended());
      CHECK(records(pieces, more) == wanted);
    }
  }

  TEST_CASE("memory does not grow with the file: 80 MB are trained on within 8 MB") {
    constexpr std::int64_t budget = 8 << 20;
    const Folder folder;
    const auto path = folder.path("large.csv");
    std::int64_t rows = 0, bytes = 0;
    {
      std::ofstream file(path, std::ios::binary);
      for (file << "clicked,user,item,seconds,note\n"; bytes < 10 * budget; ++rows) {
        const auto line = concat(rows % 2, ",u", rows * 7919 % 5000, ",", rows * 104729 % 100'000, ",", rows % 600, ",",
                                 std::string(120, 'n'), "\n");
        file << line;
        bytes += static_cast<std::int64_t>(line.size());
      }
    }
    const cases::PeakMemory memory;
    if (!memory.is_known()) {
      MESSAGE("skipped: this system does not tell the peak of memory anew");
      return;
    }
    const TableStream stream{{.file = {.paths = {path}},
                              .label = {.column = "clicked"},
                              .dense = {{.column = "seconds"}},
                              .ids = {{.column = "user"}, {.column = "item", .rows = IdRows::hashed, .num_embeddings = 10'000}},
                              .split = by_row}, {.batch_size = 1024, .shuffle_rows = 16'384}};
    std::int64_t seen = 0;
    for (const auto part : {Part::train, Part::validation, Part::test})
      for (const TableBatch& batch : stream.epoch(part)) seen += batch.size();
    CHECK(seen == rows);
    CHECK(memory.growth() < budget);
  }
}
