// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// read_tensors: the named tensors of a file of Python: of torch.save, weights only, or of safetensors.
//
//   auto tensors = read_tensors("model.pt");                    // {"over.0.weight", [64, 13]}, ...
//
// Answers to torch.load(.., weights_only=True) and safetensors.torch.load_file. The file is mapped, not read: what is not used costs no
// memory.  Include cost: tensor, nlohmann/json.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/checkpoint/formats/byte_reader.hpp>
#include <rookery/checkpoint/formats/safetensors.hpp>
#include <rookery/checkpoint/formats/stored_tensor.hpp>
#include <rookery/checkpoint/formats/torch_pickle.hpp>
#include <rookery/checkpoint/named_tensor.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// The bytes of a file, as long as it lives; what is written to them stays in memory.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    check<ConfigError>(file >= 0, "read_tensors: cannot open '", path, "': ", std::strerror(errno));
    struct stat facts {};
    const bool regular = fstat(file, &facts) == 0 && S_ISREG(facts.st_mode);
    if (regular && facts.st_size > 0) {
      size_ = static_cast<std::size_t>(facts.st_size);
      memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    }
    const int problem = errno;
    close(file);
    check<ConfigError>(regular, "read_tensors: '", path, "' is no file");
    check<ConfigError>(memory_ != MAP_FAILED, "read_tensors: cannot map '", path, "': ", std::strerror(problem));
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (size_ > 0 && memory_ != MAP_FAILED) munmap(memory_, size_);
  }

  Bytes bytes() const { return {static_cast<const std::byte*>(memory_), size_}; }

 private:
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

/// By its first bytes: a ZIP archive, a pickle, or a length before a JSON object.
inline std::vector<StoredTensor> parse_tensors(Bytes file) {
  const auto begins = [&](std::string_view magic, std::size_t at) {
    return file.size() >= at + magic.size() && std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
  };
  if (begins("PK", 0)) return parse_torch_pickle(file);
  if (begins("{", 8)) return parse_safetensors(file);
  check<DataError>(!begins("\x80\x02", 0), "it is of a torch.save before version 1.6; load it there and save it again");
  fail<DataError>("it is neither of torch.save nor of safetensors");
}

/// A view of the file's bytes, or a copy where they are not aligned.
inline at::Tensor mapped_tensor(const StoredTensor& stored, std::shared_ptr<const void> owner) {
  const auto* bytes = stored.bytes.data();
  if (reinterpret_cast<std::uintptr_t>(bytes) % static_cast<std::uintptr_t>(stored.dtype.size) != 0) {
    const auto copy = std::make_shared<std::vector<std::byte>>(stored.bytes.begin(), stored.bytes.end());
    bytes = copy->data();
    owner = copy;
  }
  return at::from_blob(const_cast<std::byte*>(bytes), stored.shape, stored.strides, [owner](void*) {}, stored.dtype.dtype);
}

}  // namespace detail

/// The tensors of a file, with the names that they have there, such as "embedding_bags.user_id.weight".
///
/// Shapes:  as in the file; strided where the file says so.
/// Dtypes:  as in the file.
/// Errors:  ConfigError when the file cannot be opened; DataError in one sentence for whatever it is that is no such file: cut off, with
///          sizes that do not fit, or a pickle of more than tensors, of which nothing is executed.
/// Cost:    the headers; numbers are read when they are used. The file must not change while the tensors live.
inline std::vector<NamedTensor> read_tensors(const std::string& path) {
  const auto file = std::make_shared<detail::MappedFile>(path);
  try {
    std::vector<NamedTensor> tensors;
    for (auto& stored : detail::parse_tensors(file->bytes())) tensors.push_back({stored.name, detail::mapped_tensor(stored, file)});
    return tensors;
  } catch (const DataError& problem) {
    fail<DataError>("read_tensors: '", path, "': ", problem.what());
  }
}

}  // namespace rookery
