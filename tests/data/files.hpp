// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Small files written by a test, and where the real ones are.

#include <rookery/core/error.hpp>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace rookery::cases {

/// A folder that is gone when the test is over.
class Folder {
 public:
  Folder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() / concat("rookery_data_", ::getpid(), "_", ++count);
    std::filesystem::create_directories(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path(std::string_view name) const { return (path_ / name).string(); }
  /// Writes a file and returns its path.
  std::string write(std::string_view name, std::string_view text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

/// What `fn` throws as an Error of the library, in words; empty if it throws nothing.
template <class Fn> std::string message_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// MovieLens-100k as tests/setup leaves it, and the folder of the other data sets; they may not be there.
inline std::filesystem::path movielens_folder() {
  if (const char* set = std::getenv("ROOKERY_MOVIELENS")) return set;
  if (const char* home = std::getenv("ROOKERY_HOME")) return std::filesystem::path(home) / "ml-100k";
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) return std::filesystem::path(cache) / "rookery/ml-100k";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : ".") / ".cache/rookery/ml-100k";
}
inline std::filesystem::path data_folder() {
  const char* set = std::getenv("ROOKERY_DATA");
  return set && *set ? set : "../shared/data";
}

}  // namespace rookery::cases
