// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Files that Python's torch and safetensors wrote, with what the models in them compute; written once a process.

#include <string>

#include <nlohmann/json.hpp>

#include "data/files.hpp"
#include "support/python.hpp"

namespace rookery::cases {

struct PythonFiles {
  Folder folder;
  nlohmann::json facts = nlohmann::json::parse(run_python("checkpoint/write_states.py", {folder.path("")}));
  std::string path(const std::string& name) const { return folder.path(name); }
};

/// Only where `has_python()`.
inline const PythonFiles& python_files() {
  static const PythonFiles files;
  return files;
}

}  // namespace rookery::cases
