// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// From a schema and small files to columns of numbers: labels, dense columns, ids, joins, splits.

#include <rookery/data/read_table.hpp>
#include <rookery/data/split.hpp>
#include <rookery/data/table.hpp>
#include <rookery/data/table_columns.hpp>
#include <rookery/data/vocabulary.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/files.hpp"
#include "support/test.hpp"

using namespace rookery;
using cases::Folder;

namespace {

using Rows = std::vector<std::int64_t>;
using Bags = std::vector<std::vector<std::int64_t>>;

/// What one id column became, seen from the rows of the main table.
Bags bags_of(const Table& table, std::size_t feature = 0) {
  Bags bags;
  const auto& ids = table.ids()[feature];
  for (std::int64_t row = 0; row < table.rows(); ++row) {
    const auto bag = ids.bag(table.row_in(ids.table, row));
    bags.emplace_back(bag.begin(), bag.end());
  }
  return bags;
}

std::vector<float> dense_of(const Table& table, std::size_t column = 0) {
  std::vector<float> values;
  const auto& dense = table.dense()[column];
  for (std::int64_t row = 0; row < table.rows(); ++row) values.push_back(dense.values[table.row_in(dense.table, row)]);
  return values;
}

/// A table with a label of both kinds and one more column `x` of the given texts; everything trains.
struct OneColumn {
  Folder folder;
  TableSchema schema;

  explicit OneColumn(const std::vector<std::string>& texts) {
    std::string text = "clicked\tx\n";
    for (std::size_t i = 0; i < texts.size(); ++i) text += concat(i % 2, "\t", texts[i], "\n");
    schema.file = {.paths = {folder.write("t.tsv", text)}, .separator = "\t"};
    schema.label = {.column = "clicked"};
    schema.split = SplitByFraction{.train = 1.0};
  }
  Bags bags(IdColumn id) {
    id.column = "x";
    schema.ids = {id};
    return bags_of(*read_table(schema));
  }
  std::vector<float> dense(DenseColumn dense) {
    dense.column = "x";
    schema.dense = {dense};
    return dense_of(*read_table(schema));
  }
  std::int64_t rows_of_feature() const { return read_table(schema)->ids()[0].feature.num_embeddings; }
};

}  // namespace

TEST_SUITE("data/read_table") {
  TEST_CASE("the label is a column's number, a comparison with it, or one of several texts") {
    Folder folder;
    TableSchema schema{.file = {.paths = {folder.write("t.csv", "x,r,t\na,4,yes\na,3.5,no\na,5,maybe\na,-1,yes\n")}},
                       .ids = {{.column = "x"}}};
    schema.split = SplitByFraction{.train = 1.0};
    const auto labels = [&](const LabelColumn& label) {
      schema.label = label;
      return read_table(schema)->labels();
    };
    using Labels = std::vector<float>;
    CHECK(labels({.column = "r"}) == Labels{4, 3.5, 5, -1});
    CHECK(labels({.column = "r", .at_least = 4}) == Labels{1, 0, 1, 0});
    CHECK(labels({.column = "r", .above = 4}) == Labels{0, 0, 1, 0});
    CHECK(labels({.column = "r", .at_most = 3.5}) == Labels{0, 1, 0, 1});
    CHECK(labels({.column = "r", .below = 3.5}) == Labels{0, 0, 0, 1});
    CHECK(labels({.column = "t", .equals = {"yes", "maybe"}}) == Labels{1, 0, 1, 1});
  }

  TEST_CASE("dense columns: affine, log1p, signed_log1p, a value for missing") {
    OneColumn table({"-3", "0", "8", "", "?"});
    const std::vector<std::string> none{"", "?"};
    CHECK(table.dense({.subtract = 2, .divide = 4, .missing_texts = none, .missing = 10}) == std::vector<float>{-1.25, -0.5, 1.5, 2, 2});
    CHECK(table.dense({.transform = DenseTransform::log1p, .missing_texts = none, .missing = 0}) ==
          std::vector<float>{0, 0, static_cast<float>(std::log(9.0)), 0, 0});
    CHECK(table.dense({.transform = DenseTransform::signed_log1p, .subtract = 1, .missing_texts = none, .missing = -8}) ==
          std::vector<float>{static_cast<float>(-std::log(4.0) - 1), -1, static_cast<float>(std::log(9.0) - 1),
                             static_cast<float>(-std::log(9.0) - 1), static_cast<float>(-std::log(9.0) - 1)});
  }

  TEST_CASE("4.2 log transform of -3, -1, 0, 1, 100") {
    OneColumn table({"-3", "-1", "0", "1", "100"});
    const std::vector<double> expected{-1.3862944, -.6931472, 0, .6931472, 4.6151204};
    const auto found = table.dense({.transform = DenseTransform::signed_log1p});
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(static_cast<double>(found.at(i)) == doctest::Approx(expected[i]).epsilon(1e-6));
  }

  TEST_CASE("a vocabulary is the sorted tokens of the whole file") {
    OneColumn table({"b", "a", "", "b", "B", "10", "9"});
    CHECK(table.bags({}) == Bags{{5}, {4}, {0}, {5}, {3}, {1}, {2}});
    CHECK(table.rows_of_feature() == 6);
    CHECK(table.bags({.missing_texts = {""}, .unknown = UnknownIds::own_row}) == Bags{{4}, {3}, {5}, {4}, {2}, {0}, {1}});
    CHECK(table.rows_of_feature() == 6);
    CHECK(table.bags({.missing_texts = {""}, .unknown = UnknownIds::empty_bag}) == Bags{{4}, {3}, {}, {4}, {2}, {0}, {1}});
    CHECK(table.rows_of_feature() == 5);
    CHECK(read_table(table.schema)->ids()[0].feature.unknown_ids == 1);
  }

  TEST_CASE("first characters are characters of UTF-8, buckets are floors, and both come before the vocabulary") {
    CHECK(OneColumn({"94043", "94110", "9"}).bags({.first_characters = 3}) == Bags{{1}, {2}, {0}});
    CHECK(OneColumn({"94043", "94010", "9"}).bags({.first_characters = 2}) == Bags{{1}, {1}, {0}});
    CHECK(OneColumn({"\xC3\xA9t\xC3\xA9", "\xC3\xA9ta", "e"}).bags({.first_characters = 2}) == Bags{{1}, {1}, {0}});
    CHECK(OneColumn({"0", "2", "3", "-1", "5.5"}).bags({.bucket = Bucket{.width = 3}}) == Bags{{1}, {1}, {2}, {0}, {2}});
    // 0 apart, then 1 + floor(x / 1000): 0 1 1 2 3, sorted as texts
    CHECK(OneColumn({"0", "1", "999", "1000", "2500"}).bags({.bucket = Bucket{.width = 1000, .zero_apart = true}}) ==
          Bags{{0}, {1}, {1}, {2}, {3}});
  }

  TEST_CASE("buckets of given boundaries count those that are at most the number") {
    OneColumn table({"-5", "0", "0.5", "10", "1e300"});
    CHECK(table.bags({.bucket = Bucket{.boundaries = {0, 10, 1e9}}}) == Bags{{0}, {1}, {1}, {2}, {3}});
    CHECK(table.rows_of_feature() == 4);
  }

  TEST_CASE("B4 B8 a weight column holds finite numbers from 0 up, and several labels are found by name") {
    const Folder folder;
    const auto read_weighted = [&](std::string_view text) {
      return read_table({.file = {.paths = {folder.write("w.csv", text)}},
                         .labels = {{.column = "liked", .at_least = 4}, {.column = "seconds", .name = "watch"}},
                         .weight = "n",
                         .dense = {{.column = "seconds"}},
                         .split = SplitByFraction{.train = 1.0}});
    };
    const auto table = read_weighted("liked,seconds,n\n5,0.5,2\n1,30,0\n4,7,0.25\n");
    CHECK(table->rows() == 3);
    CHECK(table->label_names() == std::vector<std::string>{"liked", "watch"});
    CHECK(table->labels() == std::vector<float>{1, 0.5, 0, 30, 1, 7});
    CHECK(table->weights() == std::vector<float>{2, 0, 0.25});
    const auto refusal = [&](std::string_view text) { return cases::message_of([&] { read_weighted(text); }); };
    const auto path = folder.path("w.csv");
    CHECK(refusal("liked,seconds,n\n5,0.5,-1\n") == path + ":2: column 'n': '-1' is a negative weight");
    CHECK(refusal("liked,seconds,n\n5,0.5,nan\n") == path + ":2: column 'n': 'nan' is not a finite number");
    CHECK(refusal("liked,seconds,n\n5,0.5,1e39\n") == path + ":2: column 'n': '1e39' does not fit a float32 as a weight");
    CHECK(refusal("liked,seconds,n\n5,inf,1\n") == path + ":2: column 'seconds': 'inf' is not a finite number");
    CHECK(refusal("liked,seconds,n\n5,0.5,1\n4,2,1\n") == path + ": column 'liked': no negative label among the 2 training rows");
    CHECK(read_weighted("liked,seconds,n\n5,2,1\n1,2,1\n")->rows() == 2);     // seconds are no classes
  }

  TEST_CASE("B8 a dense value that is no finite number is refused with its line, or counts as missing where the schema says so") {
    OneColumn table({"1", "nan", "-inf", "7"});
    CHECK(cases::message_of([&] { table.dense({}); }) == table.schema.file.paths[0] + ":3: column 'x': 'nan' is not a finite number");
    CHECK(cases::message_of([&] { table.dense({.missing_texts = {"nan"}, .missing = 0}); }) ==
          table.schema.file.paths[0] + ":4: column 'x': '-inf' is not a finite number");
    CHECK(table.dense({.missing_texts = {"nan", "-inf"}, .missing = 5}) == std::vector<float>{1, 5, 5, 7});
    OneColumn labels({"1", "nan"});
    labels.schema.label = {.column = "x"};
    labels.schema.dense = {{.column = "clicked"}};
    CHECK(cases::message_of([&] { read_table(labels.schema); }) ==
          labels.schema.file.paths[0] + ":3: column 'x': 'nan' is not a finite number");
  }

  TEST_CASE("a multi-hot column is a bag of tokens, empty ones left out") {
    OneColumn table({"Drama|Comedy", "", "Comedy", "|Drama||Drama|"});
    CHECK(table.bags({.separator = "|"}) == Bags{{1, 0}, {}, {0}, {1, 1}});
    CHECK(read_table(table.schema)->ids()[0].feature.is_multi_hot);
    CHECK(table.bags({.separator = "|", .first_characters = 1, .missing_texts = {"Comedy"}, .unknown = UnknownIds::own_row}) ==
          Bags{{1, 0}, {}, {2}, {1, 1}});
    CHECK(OneColumn({"a::b", "b"}).bags({.separator = "::"}) == Bags{{0, 1}, {1}});
  }

  TEST_CASE("hashed rows are FNV-1a of the seed and the token, modulo the rows") {
    CHECK(hashed_row("a", 1000, 7) == hashed_row("a", 1'000'000, 7) % 1000);          // (token, rows, seed), as of ids
    CHECK(fnv1a("") == 0xcbf29ce484222325);  // the authors' test vectors
    CHECK(fnv1a("a") == 0xaf63dc4c8601ec8c);
    CHECK(fnv1a("foobar") == 0x85944171f73967e8);
    const std::int64_t rows = 1'000'003;
    const auto row = [&](std::string_view seed_and_token) {
      return std::vector{static_cast<std::int64_t>(fnv1a(seed_and_token) % static_cast<std::uint64_t>(rows))};
    };
    OneColumn table({"", "a", "foobar", "a"});
    IdColumn hashed{.rows = IdRows::hashed, .num_embeddings = rows};
    using std::string_view_literals::operator""sv;
    CHECK(table.bags(hashed) ==
          Bags{row("\0\0\0\0\0\0\0\0"sv), row("\0\0\0\0\0\0\0\0a"sv), row("\0\0\0\0\0\0\0\0foobar"sv), row("\0\0\0\0\0\0\0\0a"sv)});
    CHECK(table.rows_of_feature() == rows);
    hashed.seed = 0x0102030405060708;
    CHECK(table.bags(hashed)[2] == row("\x08\x07\x06\x05\x04\x03\x02\x01"
                                       "foobar"));
    hashed.missing_texts = {""};
    hashed.unknown = UnknownIds::own_row;
    CHECK(table.bags(hashed)[0] == std::vector{rows});
    CHECK(table.rows_of_feature() == rows + 1);
  }

  TEST_CASE("B1 ids below 0, at num_embeddings, at the ends of int64, or right only after a wrap to int32 are refused, never row 0") {
    const IdColumn number{.rows = IdRows::number, .num_embeddings = 10};
    CHECK(OneColumn({"0", "9"}).bags(number) == Bags{{0}, {9}});
    for (const auto* text : {"-1", "10", "4294967296", "-4294967295", "9223372036854775807", "-9223372036854775808"}) {
      OneColumn table({"3", text});
      CHECK(cases::message_of([&] { table.bags(number); }) == concat(table.schema.file.paths[0], ":3: column 'x': '", text,
                                                                     "' is not a row of id column 'x', which has rows 0 to 9; "
                                                                     "to accept it, set unknown = own_row or empty_bag"));
    }
    OneColumn wide({"9223372036854775808", "1"});
    CHECK(cases::message_of([&] { wide.bags(number); }) ==
          wide.schema.file.paths[0] + ":2: column 'x': '9223372036854775808' is outside the range of 64-bit integers");
  }

  TEST_CASE("B1 of 10,000 generated ids just those outside the table are counted and left out, or in the last row") {
    std::mt19937_64 engine(1);
    std::vector<std::string> texts;
    Bags kept, moved;
    std::int64_t outside = 0;
    for (int i = 0; i < 10'000; ++i) {
      const auto id = static_cast<std::int64_t>(engine()) >> (engine() % 64);  // of every magnitude
      const bool inside = 0 <= id && id < 100;
      outside += !inside;
      texts.push_back(std::to_string(id));
      kept.push_back(inside ? std::vector{id} : std::vector<std::int64_t>{});
      moved.push_back({inside ? id : 100});
    }
    OneColumn table(texts);
    CHECK(table.bags({.rows = IdRows::number, .num_embeddings = 100, .unknown = UnknownIds::empty_bag}) == kept);
    CHECK(read_table(table.schema)->ids()[0].feature.unknown_ids == outside);
    CHECK(table.bags({.rows = IdRows::number, .num_embeddings = 100, .unknown = UnknownIds::own_row}) == moved);
    CHECK(read_table(table.schema)->ids()[0].feature.unknown_ids == outside);
  }

  TEST_CASE("a vocabulary of the training part has its tokens only") {
    OneColumn table({"b", "c", "a", "z", "b", "a"});
    table.schema.split = SplitByOrder{.columns = {"(row)"}, .train = std::int64_t{3}};
    CHECK(table.bags({.rows = IdRows::training_part}) == Bags{{1}, {2}, {0}, {3}, {1}, {0}});  // unknown: a row of its own
    CHECK(table.rows_of_feature() == 4);
    CHECK(table.bags({.rows = IdRows::training_part, .unknown = UnknownIds::empty_bag}) == Bags{{1}, {2}, {0}, {}, {1}, {0}});
    CHECK(table.rows_of_feature() == 3);
    CHECK(cases::message_of([&] { table.bags({.rows = IdRows::training_part, .unknown = UnknownIds::refuse}); }) ==
          table.schema.file.paths[0] +
              ":5: column 'x': 'z' does not occur in the training part; to accept it, set unknown = own_row or empty_bag");
    table.schema.split = SplitByFraction{.train = 1.0};
    CHECK(table.bags({.rows = IdRows::training_part, .unknown = UnknownIds::refuse}) == Bags{{1}, {2}, {0}, {3}, {1}, {0}});
  }

  TEST_CASE("one column is a dense input and two features at once") {
    Folder folder;
    const auto table = read_table({.file = {.paths = {folder.write("t.csv", "y,age\n1,24\n0,53\n")}},
                                   .label = {.column = "y"},
                                   .dense = {{.column = "age"}, {.column = "age", .name = "decades", .divide = 10}},
                                   .ids = {{.column = "age"}, {.column = "age", .name = "decade", .bucket = Bucket{.width = 10}}},
                                   .split = SplitByFraction{.train = 1.0}});
    CHECK(dense_of(*table, 0) == std::vector<float>{24, 53});
    CHECK(dense_of(*table, 1) == std::vector<float>{2.4F, 5.3F});
    CHECK(bags_of(*table, 0) == Bags{{0}, {1}});
    CHECK(table->ids()[1].feature.name == "decade");
  }

  TEST_CASE("side tables are joined by their keys, and columns found by name or as table.column") {
    Folder folder;
    TableSchema schema{
        .file = {.paths = {folder.write("t.csv", "y,user,film,age\n1,u2,f1,7\n0,u1,f2,8\n1,u2,f2,9\n")}},
        .label = {.column = "y"},
        .dense = {{.column = "age"}, {.column = "users.age", .name = "user_age"}, {.column = "films.year", .missing = 1995}},
        .ids = {{.column = "users.user"}, {.column = "kind", .separator = "|"}, {.column = "city"}},
        .side_tables =
            {{.name = "users",
              .file = {.paths = {folder.write("u.tsv", "user:token\tage:float\tcity:token\nu3\t30\tX\nu1\t10\tY\nu2\t20\tX\n")},
                       .separator = "\t",
                       .name_ends_at = ":"},
              .key = "user"},
             {.name = "films",
              .file = {.paths = {folder.write("f.csv", "f1,,b|a\nf2,2001,\n")}, .has_header = false, .columns = {"id", "year", "kind"}},
              .key = "id",
              .column = "film"}},
        .split = SplitByFraction{.train = 1.0}};
    const auto table = read_table(schema);
    CHECK(dense_of(*table, 0) == std::vector<float>{7, 8, 9});
    CHECK(dense_of(*table, 1) == std::vector<float>{20, 10, 20});
    CHECK(dense_of(*table, 2) == std::vector<float>{1995, 2001, 2001});
    CHECK(bags_of(*table, 0) == Bags{{1}, {0}, {1}});
    CHECK(table->ids()[0].feature.num_embeddings == 3);  // u3, who clicks nothing, has a row
    CHECK(bags_of(*table, 1) == Bags{{1, 0}, {}, {}});
    CHECK(bags_of(*table, 2) == Bags{{0}, {1}, {0}});
    schema.ids[0].rows = IdRows::training_part;
    CHECK(read_table(schema)->ids()[0].feature.num_embeddings == 3);  // u1, u2 and the unknown
  }

  TEST_CASE("a key that the side table lacks is refused, or its columns are missing") {
    Folder folder;
    const auto main = folder.write("t.csv", "y,user\n1,u1\n0,u9\n"), users = folder.write("u.csv", "user,age,tags\nu1,10,a b\nu2,20,b\n");
    TableSchema schema{.file = {.paths = {main}},
                       .label = {.column = "y"},
                       .dense = {{.column = "age", .missing = 33}},
                       .ids = {{.column = "users.user", .unknown = UnknownIds::own_row},
                               {.column = "tags", .separator = " ", .unknown = UnknownIds::empty_bag},
                               {.column = "age", .rows = IdRows::training_part}},
                       .side_tables = {{.name = "users", .file = {.paths = {users}}, .key = "user"}},
                       .split = SplitByFraction{.train = 1.0}};
    CHECK(cases::message_of([&] { read_table(schema); }) ==
          concat(main, ":3: column 'user': 'u9' is not a key of side table 'users' (", users, "); to accept it, set unknown = missing"));
    schema.side_tables[0].unknown = UnknownKeys::missing;
    const auto table = read_table(schema);
    CHECK(dense_of(*table) == std::vector<float>{10, 33});
    CHECK(bags_of(*table, 0) == Bags{{0}, {2}});
    CHECK(bags_of(*table, 1) == Bags{{0, 1}, {}});
    CHECK(bags_of(*table, 2) == Bags{{0}, {1}});
    CHECK(table->ids()[0].feature.unknown_ids == 0);
    schema.ids[0].unknown = {};
    CHECK(cases::message_of([&] { read_table(schema); }) ==
          "id column 'users.user': its side table lets unknown keys pass, so unknown must be own_row or empty_bag");
    schema.ids[0].unknown = UnknownIds::own_row;
    schema.dense[0].missing = {};
    CHECK(cases::message_of([&] { read_table(schema); }) ==
          "dense column 'age': its side table lets unknown keys pass, so it needs a value for missing");
  }

  TEST_CASE("several files of the same columns are one table, and may be its parts") {
    Folder folder;
    const auto a = folder.write("a.csv", "y,x\n1,p\n0,q\n"), b = folder.write("b.csv", "y,x\n1,r\n");
    TableSchema schema{.file = {.paths = {a, b}}, .label = {.column = "y"}, .ids = {{.column = "x"}}};
    schema.split = SplitByColumn{.column = "(file)", .train = {a}, .test = {b}};
    const auto table = read_table(schema);
    CHECK(table->labels() == std::vector<float>{1, 0, 1});
    CHECK(table->part(Part::train) == Rows{0, 1});
    CHECK(table->part(Part::test) == Rows{2});
    schema.file.paths[1] = folder.write("c.csv", "x,y\nr,1\n");
    CHECK(cases::message_of([&] { read_table(schema); }) ==
          concat(schema.file.paths[1], ": the header is [x, y], but that of ", a, " is [y, x]"));
  }
}

TEST_SUITE("data/split") {
  TEST_CASE("by order: sorted by several columns, ties in file order, validation beside or in the training part") {
    Folder folder;
    TableSchema schema{.file = {.paths = {folder.write("t.csv", "y,time,user\n1,30,1\n0,10,2\n1,20,9\n0,10,1\n1,20,9\n0,5,7\n")}},
                       .label = {.column = "y"},
                       .ids = {{.column = "user"}}};
    // sorted by (time, user): rows 5, 3, 1, 2, 4, 0
    schema.split = SplitByOrder{.columns = {"time", "user"}, .train = std::int64_t{4}, .validation = std::int64_t{1}};
    auto table = read_table(schema);
    CHECK(table->part(Part::train) == Rows{1, 2, 3, 5});
    CHECK(table->part(Part::validation) == Rows{4});
    CHECK(table->part(Part::test) == Rows{0});
    schema.split = SplitByOrder{.columns = {"time", "user"}, .train = 4.0 / 6, .validation = 2.0 / 6, .validation_in_train = true};
    table = read_table(schema);
    CHECK(table->part(Part::train) == Rows{1, 2, 3, 5});
    CHECK(table->part(Part::validation) == Rows{1, 2});
    CHECK(table->part(Part::test) == Rows{0, 4});
  }

  TEST_CASE("by order of ISO dates, of days or of seconds, alone or beside a column of numbers") {
    Folder folder;
    const auto split = [&](std::string_view text, SplitByOrder by) {
      TableSchema schema{.file = {.paths = {folder.write("t.csv", text)}}, .label = {.column = "y"}, .ids = {{.column = "y"}}, .split = by};
      return read_table(schema)->part(Part::train);
    };
    const SplitByOrder by_day{.columns = {"day"}, .train = std::int64_t{2}}, by_both{.columns = {"day", "y"}, .train = std::int64_t{2}};
    CHECK(split("y,day\n0,2020-02-01\n1,2019-12-31\n2,2020-01-31\n", by_day) == Rows{1, 2});
    CHECK(split("y,day\n0,2020-01-31 10:00:00\n1,2020-01-31 09:59:59\n2,2020-01-31T09:59:58\n", by_day) == Rows{1, 2});
    CHECK(split("y,day\n2,2020-01-31\n1,2020-01-31\n0,2020-01-31\n", by_both) == Rows{1, 2});
    const auto refusal = [&](std::string_view text) { return cases::message_of([&] { split(text, by_day); }); };
    const auto path = folder.path("t.csv");
    for (const auto* other : {"31.01.2020", "2020-01-31 10:00:00", "20200131", "2020-1-31", "2020-01-3x", "2020/01/31", ""})
      CHECK(refusal(concat("y,day\n0,2020-01-30\n1,", other, "\n")) ==
            concat(path, ":3: column 'day': '", other, "' is not a date of 10 characters, as the first row of the column has"));
    CHECK(refusal("y,day\n0,7\n1,2020-01-31\n") == path + ":3: column 'day': '2020-01-31' is not a number");
    CHECK(refusal("y,day\n0,31.01.2020\n") == path + ":2: column 'day': '31.01.2020' is not a number or an ISO date such as 2020-01-31");
  }

  TEST_CASE("by fraction: parts of the asked sizes that cover all rows once, another split for another seed") {
    OneColumn table(std::vector<std::string>(101, "x"));
    table.schema.ids = {{.column = "x"}};
    const auto parts = [&](SplitByFraction split) {
      table.schema.split = split;
      return read_table(table.schema);
    };
    const auto first = parts({.train = 0.7, .validation = 0.1, .seed = 1});
    CHECK(first->rows(Part::train) == 71);
    CHECK(first->rows(Part::validation) == 10);
    CHECK(first->rows(Part::test) == 20);
    Rows all;
    for (const auto part : {Part::train, Part::validation, Part::test}) {
      CHECK(std::ranges::is_sorted(first->part(part)));
      all.insert(all.end(), first->part(part).begin(), first->part(part).end());
    }
    std::ranges::sort(all);
    for (std::int64_t row = 0; row < 101; ++row) CHECK(all[static_cast<std::size_t>(row)] == row);
    CHECK(parts({.train = 0.7, .validation = 0.1, .seed = 1})->part(Part::test) == first->part(Part::test));
    CHECK(parts({.train = 0.7, .validation = 0.1, .seed = 2})->part(Part::test) != first->part(Part::test));
    CHECK(parts({.train = 0.5, .validation = 0.5})->rows(Part::test) == 0);  // 51 + 50
  }

  TEST_CASE("by hash: the sum of columns times multipliers in 64 bits, modulo 2^32, shifted, modulo 10") {
    std::mt19937_64 engine(4);
    Folder folder;
    std::string text = "y,user,item\n";
    std::vector<std::pair<std::uint64_t, std::uint64_t>> pairs;
    for (std::uint64_t i = 0; i < 500; ++i) {
      pairs.emplace_back(engine() >> (engine() % 40), engine() % 2000);
      pairs.back().first >>= 1;
      text += concat(i % 2, ",", pairs.back().first, ",", pairs.back().second, "\n");
    }
    TableSchema schema{.file = {.paths = {folder.write("t.csv", text)}}, .label = {.column = "y"}, .ids = {{.column = "user"}}};
    schema.split =
        SplitByHash{.terms = {{.column = "user", .multiplier = 2654435761}, {.column = "item", .multiplier = 40503}}, .validation = {7}};
    auto table = read_table(schema);
    Rows train, validation, test;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const auto hash = (pairs[i].first * 2654435761U + pairs[i].second * 40503) % (std::uint64_t{1} << 32) % 10;
      if (hash < 8) train.push_back(static_cast<std::int64_t>(i));
      if (hash == 7) validation.push_back(static_cast<std::int64_t>(i));
      if (hash >= 8) test.push_back(static_cast<std::int64_t>(i));
    }
    CHECK(table->part(Part::train) == train);
    CHECK(table->part(Part::validation) == validation);
    CHECK(table->part(Part::test) == test);
    schema.split = SplitByHash{.terms = {{.column = "(row)", .multiplier = 2654435761, .add = 1000003}}, .shift = 16};
    table = read_table(schema);
    test.clear();
    for (std::uint64_t i = 0; i < 500; ++i)
      if (((i + 1000003) * 2654435761U % (std::uint64_t{1} << 32) >> 16) % 10 >= 8) test.push_back(static_cast<std::int64_t>(i));
    CHECK(table->part(Part::test) == test);
  }

  TEST_CASE("by column: texts name parts, and may be in two") {
    OneColumn table({"a", "b", "c", "b", "a"});
    table.schema.ids = {{.column = "x"}};
    table.schema.split = SplitByColumn{.column = "x", .train = {"a", "b"}, .validation = {"b"}, .test = {"c"}};
    const auto read = read_table(table.schema);
    CHECK(read->part(Part::train) == Rows{0, 1, 3, 4});
    CHECK(read->part(Part::validation) == Rows{1, 3});
    CHECK(read->part(Part::test) == Rows{2});
  }
}
