// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The text of one table: its files, opened one after the other, their headers compared, their records counted.
//
// Include cost: none.

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

/// All bytes of a file. Errors: DataError that says why it cannot be read.
inline std::string read_text(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  const auto reason = [] { return errno == 0 ? std::string("unknown reason") : std::generic_category().message(errno); };
  if (!file) fail<DataError>(path, ": the file cannot be opened: ", reason());
  std::string text;
  constexpr std::size_t step = 1 << 20;
  while (file) {
    const auto size = text.size();
    text.resize(size + step);
    file.read(text.data() + size, step);
    text.resize(size + static_cast<std::size_t>(file.gcount()));
  }
  if (file.bad() || !file.eof()) fail<DataError>(path, ": the file cannot be read: ", reason());
  return text;
}

namespace detail {

/// The records of one table, from one file or several.
class TableText {
 public:
  /// Opens the first file and reads its header. `file` outlives this.
  explicit TableText(const TableFile& file) : file_(file), first_(open(file.paths.at(0))) {
    std::set<std::string_view> seen;
    for (const auto& column : columns_)
      if (!seen.insert(column).second) fail<DataError>(path(), ": column '", column, "' is there twice");
  }

  /// The first file's path, by which messages call the table.
  const std::string& path() const { return file_.paths[0]; }
  const std::vector<std::string>& columns() const { return columns_; }

  /// Calls `fn(path, line, fields)` for each record. To be called once. Errors: DataError for a record with too few or too many fields,
  /// a header that differs from the first file's, and no records at all.
  template <class Fn> void for_each_record(Fn&& fn) {
    std::int64_t count = 0;
    for (const auto& path : file_.paths) {
      const auto opened = first_ ? std::exchange(first_, nullptr) : open(path);
      auto& records = opened->records;
      for (; records.next(); ++count) {
        const auto fields = records.fields();
        check<DataError>(fields.size() == columns_.size(), path, ":", records.line(), ": ", fields.size(),
                         fields.size() == 1 ? " field" : " fields", " where there are ", columns_.size(), " columns");
        fn(path, records.line(), fields);
      }
    }
    check<DataError>(count > 0, path(), ": there are no rows");
  }

 private:
  struct OpenFile {
    OpenFile(const std::string& path, CsvFormat format) : text(read_text(path)), records(text, path, std::move(format)) {}
    OpenFile(const OpenFile&) = delete;  // records views text
    std::string text;
    CsvReader records;
  };

  std::unique_ptr<OpenFile> open(const std::string& path) {
    auto opened =
        std::make_unique<OpenFile>(path, CsvFormat{file_.separator, file_.quote.empty() ? std::optional<char>() : file_.quote[0]});
    if (!file_.has_header) {
      check<DataError>(!opened->text.empty(), path, ": the file is empty");
      columns_ = file_.columns;
      return opened;
    }
    check<DataError>(opened->records.next(), path, ": the file is empty");
    auto names = names_in(opened->records.fields());
    if (!file_.columns.empty()) {
      check<DataError>(names.size() == file_.columns.size(), path, ": the header has ", names.size(),
                       " columns, the schema gives names to ", file_.columns.size());
      names = file_.columns;
    }
    check<DataError>(columns_.empty() || names == columns_, path, ": the header is ", names, ", but that of ", file_.paths[0], " is ",
                     columns_);
    columns_ = std::move(names);
    return opened;
  }

  std::vector<std::string> names_in(std::span<const std::string_view> fields) const {
    std::vector<std::string> names;
    for (const auto field : fields)
      names.emplace_back(file_.name_ends_at.empty() ? field : field.substr(0, field.find(file_.name_ends_at)));
    return names;
  }

  const TableFile& file_;
  std::vector<std::string> columns_;
  std::unique_ptr<OpenFile> first_;
};

}  // namespace detail

}  // namespace rookery
