// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// host_memory: bytes of memory that a process may use on this host. A container's or batch system's limit counts where it is below what
// the machine has: Linux control groups, version 2 and 1.  Include cost: none.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

namespace rookery {

namespace detail {

/// The least number in the files called `name` in the folder root + path and those above it, up to root; a word there is no limit.
inline std::int64_t least_limit(const std::string& root, std::string path, const char* name) {
  auto least = std::numeric_limits<std::int64_t>::max();
  for (;;) {
    std::int64_t limit = 0;
    if (std::ifstream(root + path + "/" + name) >> limit && limit >= 0) least = std::min(least, limit);
    if (path.empty() || path == "/") return least;
    path.resize(path.rfind('/') == path.npos ? 0 : path.rfind('/'));
  }
}

/// Bytes that control groups allow this process, whose groups are listed in the file `groups`; the groups' folders are in `root`.
inline std::int64_t memory_limit(const std::string& groups = "/proc/self/cgroup", const std::string& root = "/sys/fs/cgroup") {
  auto least = std::numeric_limits<std::int64_t>::max();
  std::ifstream lines(groups);
  for (std::string line; std::getline(lines, line);) {         // number:controllers:/path
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const auto controllers = "," + line.substr(first + 1, second - first - 1) + ",", path = line.substr(second + 1);
    if (controllers == ",,")                                   // version 2, alone or beside version 1
      for (const auto* folder : {"", "/unified"}) least = std::min(least, least_limit(root + folder, path, "memory.max"));
    if (controllers.find(",memory,") != controllers.npos)
      least = std::min(least, least_limit(root + "/memory", path, "memory.limit_in_bytes"));
  }
  return least;
}

}  // namespace detail

/// Bytes that the machine has, or that this process may use of them.
inline std::int64_t host_memory() {
  return std::min<std::int64_t>(std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGE_SIZE), detail::memory_limit());
}

}  // namespace rookery
