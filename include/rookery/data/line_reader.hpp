// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LineReader: the lines of one file or several, one by one, in a block of memory that does not grow with the files.
//
// Include cost: none.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/data/file_blocks.hpp>

namespace rookery {

/// Reads lines that end in LF or CRLF; the last one of a file may end with it. A byte order mark is left out.
/// Errors: DataError for a file that cannot be read or is empty, and for a line of more than 64 MiB.
class LineReader {
 public:
  explicit LineReader(std::vector<std::string> paths, std::size_t block_bytes = std::size_t{1} << 20)
      : paths_(std::move(paths)), block_bytes_(block_bytes) {}

  /// Moves to the next line; false when there is none.
  bool next() {
    while (true) {
      if (!file_ && !open()) return false;
      const auto text = file_->text();
      const auto* end = text.empty() ? nullptr : static_cast<const char*>(std::memchr(text.data(), '\n', text.size()));
      if (end) return take(text.substr(0, static_cast<std::size_t>(end - text.data())), 1);
      if (!file_->ended()) {
        check<DataError>(text.size() < longest_line, file_->path(), ":", number_ + 1, ": a line of more than ", longest_line, " bytes");
        file_->read_more();
      } else if (!text.empty()) {
        return take(text, 0);
      } else {
        file_.reset();
      }
    }
  }

  /// The line without its end; valid until the next call of next().
  std::string_view line() const { return line_; }
  /// Whether the line has an end; the last one of a file that was cut off has none.
  bool has_end() const { return has_end_; }
  const std::string& path() const { return paths_[file_index_ - 1]; }
  /// The number of the line in its file, from 1.
  std::int64_t number() const { return number_; }

  static constexpr std::size_t longest_line = std::size_t{64} << 20;

 private:
  bool open() {
    if (file_index_ == paths_.size()) return false;
    file_ = std::make_unique<FileBlocks>(paths_[file_index_++], block_bytes_);
    file_->read_more();
    check<DataError>(!file_->text().empty(), path(), ": the file is empty");
    if (file_->text().starts_with("\xEF\xBB\xBF")) file_->consume(3);
    number_ = 0;
    return true;
  }

  bool take(std::string_view line, std::size_t end) {
    file_->consume(line.size() + end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    line_ = line;
    has_end_ = end > 0;
    ++number_;
    return true;
  }

  std::vector<std::string> paths_;
  std::size_t block_bytes_, file_index_ = 0;
  std::unique_ptr<FileBlocks> file_;
  std::string_view line_;
  bool has_end_ = false;
  std::int64_t number_ = 0;
};

}  // namespace rookery
