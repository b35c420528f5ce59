// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The text of one table: its files, opened one after the other, their headers compared, their records counted.
//
// Include cost: none.

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/csv.hpp>
#include <rookery/data/file_blocks.hpp>
#include <rookery/data/table_schema.hpp>

namespace rookery {

namespace detail {

/// The records of one CSV file, read block by block.
class CsvFile {
 public:
  CsvFile(const std::string& path, CsvFormat format) : file_(path), records_(path, std::move(format)) { read_more(); }

  bool next() {
    while (!records_.next()) {
      if (records_.is_last()) return false;
      read_more();
    }
    return true;
  }
  std::span<const std::string_view> fields() const { return records_.fields(); }
  std::int64_t line() const { return records_.line(); }
  bool is_empty() const { return file_.ended() && file_.text().empty(); }
  bool is_regular() const { return file_.is_regular(); }

 private:
  static constexpr std::size_t longest = std::size_t{64} << 20;

  void read_more() {
    const auto unread = records_.unread().size();
    check<DataError>(unread < longest, file_.path(), ":", records_.line(), ": after this line a record of more than ", longest,
                     " bytes; is a quote not closed?");
    file_.consume(file_.text().size() - unread);
    file_.read_more();
    records_.give(file_.text(), file_.ended());
  }

  FileBlocks file_;
  CsvReader records_;
};

/// The files of one table and the names of their columns. Never changed, so that several readings may go on at once.
class TableText {
 public:
  /// Reads the first file's header. `file` outlives this.
  explicit TableText(const TableFile& file) : file_(file) {
    columns_ = open(path()).second;
    std::set<std::string_view> seen;
    for (const auto& column : columns_)
      if (!seen.insert(column).second) fail<DataError>(path(), ": column '", column, "' is there twice");
  }

  /// The first file's path, by which messages call the table.
  const std::string& path() const { return file_.paths.at(0); }
  const std::vector<std::string>& paths() const { return file_.paths; }
  const std::vector<std::string>& columns() const { return columns_; }

  /// A file at its first record. Errors: DataError for a header that differs from the first file's.
  std::unique_ptr<CsvFile> records(const std::string& path) const {
    auto [opened, columns] = open(path);
    check<DataError>(columns == columns_, path, ": the header is ", columns, ", but that of ", this->path(), " is ", columns_);
    return std::move(opened);
  }

 private:
  std::pair<std::unique_ptr<CsvFile>, std::vector<std::string>> open(const std::string& path) const {
    auto opened = std::make_unique<CsvFile>(path, CsvFormat{file_.separator, file_.quote.empty() ? std::optional<char>() : file_.quote[0]});
    check<DataError>(opened->is_regular(), path, ": not a regular file; a table is opened several times");
    if (!file_.has_header) {
      check<DataError>(!opened->is_empty(), path, ": the file is empty");
      return {std::move(opened), file_.columns};
    }
    check<DataError>(opened->next(), path, ": the file is empty");
    auto names = names_in(opened->fields());
    check<DataError>(file_.columns.empty() || names.size() == file_.columns.size(), path, ": the header has ", names.size(),
                     " columns, the schema gives names to ", file_.columns.size());
    return {std::move(opened), file_.columns.empty() ? std::move(names) : file_.columns};
  }

  std::vector<std::string> names_in(std::span<const std::string_view> fields) const {
    std::vector<std::string> names;
    for (const auto field : fields)
      names.emplace_back(file_.name_ends_at.empty() ? field : field.substr(0, field.find(file_.name_ends_at)));
    return names;
  }

  const TableFile& file_;
  std::vector<std::string> columns_;
};

/// The records of all files of a table, one after the other. The TableText outlives this.
class TableRecords {
 public:
  explicit TableRecords(const TableText& text) : text_(&text) {}

  /// Moves to the next record; false when there is none. Errors: DataError for a record with too few or too many fields, and for a table
  /// without records.
  bool next() {
    while (!file_ || !file_->next()) {
      if (index_ == text_->paths().size()) {
        check<DataError>(count_ > 0, text_->path(), ": there are no rows");
        file_ = nullptr;
        return false;
      }
      file_ = text_->records(text_->paths()[index_++]);
    }
    const auto fields = file_->fields();
    check<DataError>(fields.size() == text_->columns().size(), path(), ":", file_->line(), ": ", fields.size(),
                     fields.size() == 1 ? " field" : " fields", " where there are ", text_->columns().size(), " columns");
    ++count_;
    return true;
  }

  /// The cell of a column; its text is valid until the next call of next().
  Cell cell(std::size_t column) const { return {path(), file_->line(), text_->columns()[column], file_->fields()[column]}; }
  std::string_view path() const { return text_->paths()[index_ - 1]; }
  std::int64_t line() const { return file_->line(); }
  /// How many records there were before this one, over all files.
  std::int64_t row() const { return count_ - 1; }

 private:
  const TableText* text_;
  std::unique_ptr<CsvFile> file_;
  std::size_t index_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace detail

}  // namespace rookery
