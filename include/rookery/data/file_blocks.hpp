// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// FileBlocks: a file read piece by piece, so that a reader's memory does not grow with the file.
//
//   FileBlocks file(path);
//   do { file.read_more(); file.consume(parse(file.text(), file.ended())); } while (!file.ended());
// Include cost: none.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <rookery/core/error.hpp>

namespace rookery {

/// Text of a file that was read and not yet consumed. Pipes are files too.
/// Errors: DataError that says why the file cannot be opened or read.
/// Cost:   one block of memory; more only while an unconsumed text is longer than that.
class FileBlocks {
 public:
  explicit FileBlocks(std::string path, std::size_t block_bytes = std::size_t{1} << 20)
      : path_(std::move(path)), capacity_(std::max<std::size_t>(block_bytes, 1)), file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_ < 0) fail<DataError>(path_, ": the file cannot be opened: ", std::generic_category().message(errno));
    buffer_ = std::make_unique_for_overwrite<char[]>(capacity_);
  }
  FileBlocks(const FileBlocks&) = delete;
  FileBlocks& operator=(const FileBlocks&) = delete;
  ~FileBlocks() { ::close(file_); }

  const std::string& path() const { return path_; }
  /// What was read and not consumed; valid until the next read_more().
  std::string_view text() const { return {buffer_.get() + begin_, end_ - begin_}; }
  /// Whether `text()` reaches to the end of the file.
  bool ended() const { return ended_; }
  void consume(std::size_t bytes) { begin_ += bytes; }
  /// Whether opening the path again would give the same bytes again: a pipe would not.
  bool is_regular() const {
    struct stat facts = {};
    return ::fstat(file_, &facts) == 0 && S_ISREG(facts.st_mode);
  }

  /// Reads on behind `text()` until the buffer is full or the file at its end.
  void read_more() {
    const auto kept = end_ - begin_;
    if (kept == capacity_) {
      auto larger = std::make_unique_for_overwrite<char[]>(2 * capacity_);
      std::memcpy(larger.get(), buffer_.get() + begin_, kept);
      buffer_ = std::move(larger);
      capacity_ *= 2;
    } else if (kept > 0) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, kept);
    }
    begin_ = 0;
    end_ = kept;
    while (end_ < capacity_ && !ended_) {
      const auto got = ::read(file_, buffer_.get() + end_, capacity_ - end_);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail<DataError>(path_, ": the file cannot be read: ", std::generic_category().message(errno));
      ended_ = got == 0;
      end_ += static_cast<std::size_t>(got);
    }
  }

 private:
  std::string path_;
  std::size_t capacity_, begin_ = 0, end_ = 0;
  int file_;
  bool ended_ = false;
  std::unique_ptr<char[]> buffer_;
};

/// All bytes of a file. Errors: DataError that says why it cannot be read.
inline std::string read_text(const std::string& path) {
  FileBlocks file(path);
  while (!file.ended()) file.read_more();
  return std::string(file.text());
}

}  // namespace rookery
