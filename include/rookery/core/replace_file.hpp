// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// replace_file: writes a file that is, at any moment and after any crash, the old one or the new one, whole.
//
// The text goes into a file beside it, which is synced and takes its name; then the folder is synced.  Include cost: none.

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include <rookery/core/error.hpp>

namespace rookery {

/// Makes `text` the content of the file. `who` is the writer, in errors.
/// Errors: DataError when it cannot be written, as on a full disk; the old file is then as it was, and nothing is left beside it.
inline void replace_file(const std::string& path, std::string_view text, std::string_view who) {
  static std::atomic<int> number{0};                             // ranks may be threads of one process
  const auto part = concat(path, ".", ::getpid(), ".", number++, ".part");
  const int file = ::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  check<DataError>(file >= 0, who, ": cannot write '", path, "': ", std::strerror(errno));
  bool good = true;
  while (good && !text.empty()) {
    const auto written = ::write(file, text.data(), text.size());
    if (written > 0) text.remove_prefix(static_cast<std::size_t>(written));
    else good = written < 0 && errno == EINTR;
  }
  good = good && ::fsync(file) == 0;
  int error = good ? 0 : errno;
  if (::close(file) != 0 && good) error = errno, good = false;
  if (good && std::rename(part.c_str(), path.c_str()) != 0) error = errno, good = false;
  if (!good) ::unlink(part.c_str());
  check<DataError>(good, who, ": cannot write '", path, "': ", std::strerror(error));
  const auto slash = path.rfind('/');
  const int folder = ::open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);                                               // not every file system can; the file is there either way
  ::close(folder);
}

}  // namespace rookery
