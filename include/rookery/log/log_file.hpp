// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LogFile: a file that a sink appends to, each record whole and flushed, so that other programs can follow it and a killed run leaves
// a file that can be read.  Include cost: none.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <rookery/core/error.hpp>

namespace rookery {

/// Whether what a file holds is kept or thrown away when it is opened.
enum class OpenMode { append, truncate };

/// An open file, or none. `who` is the sink, in errors.
class LogFile {
 public:
  LogFile() = default;
  /// Errors: ConfigError when the file cannot be opened.
  LogFile(std::string who, std::string path, OpenMode mode)
      : who_(std::move(who)), path_(std::move(path)), file_(std::fopen(path_.c_str(), mode == OpenMode::append ? "a+b" : "wb")) {
    check<ConfigError>(file_ != nullptr, who_, ": cannot open '", path_, "': ", std::strerror(errno));
  }

  explicit operator bool() const { return file_ != nullptr; }
  const std::string& path() const { return path_; }
  /// The last byte of a file opened for appending; EOF of an empty one.
  int last_byte() const {
    if (std::fseek(file_.get(), -1, SEEK_END) != 0) return EOF;
    const int last = std::fgetc(file_.get());
    std::fseek(file_.get(), 0, SEEK_END);                        // between reading and writing, as C wants
    return last;
  }
  /// Writes all of it and flushes. Errors: Error when it cannot be written, as on a full disk.
  void write(std::string_view text) const {
    const bool written = std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() && std::fflush(file_.get()) == 0;
    check<Error>(written, who_, ": cannot write '", path_, "': ", std::strerror(errno));
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::string who_, path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace rookery
