// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A GPU at run time: cuda_device checks that there is one and loads LibTorch's part for it, libtorch_cuda, from the folder of libc10.
//
// So a program links libtorch_cpu and libc10 whether or not it may be told to use a GPU, and starts on a machine without CUDA. What is
// wrong is one sentence: no driver, no such GPU, a LibTorch for the host alone. LibTorch looks for its part for CUDA once, at the first
// backward pass if not before: the device comes first.
// Answers to torch.device("cuda") and torch.cuda.is_available().  Include cost: c10 device only.

#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/cuda.h>

#include <dlfcn.h>
#include <link.h>

#include <string>
#include <string_view>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// A library that is looked for when the program runs, and stays.
class RunTimeLibrary {
 public:
  explicit RunTimeLibrary(const std::string& file, int how = RTLD_NOW) : handle_(::dlopen(file.c_str(), how)) {
    const char* said = handle_ ? nullptr : ::dlerror();
    why_ = handle_ ? "" : said ? said : file + " is not loaded";
  }
  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& why() const { return why_; }

  /// Calls the C function of that name. Gives its status, or -1 where the library has none.
  template <class... Argument> int call(const char* name, Argument... arguments) const {
    const auto found = handle_ ? reinterpret_cast<int (*)(Argument...)>(::dlsym(handle_, name)) : nullptr;
    return found ? found(arguments...) : -1;
  }
  /// The folder that it was loaded from.
  std::string folder() const {
    const link_map* map = nullptr;
    check<Error>(handle_ && ::dlinfo(handle_, RTLD_DI_LINKMAP, &map) == 0, "no folder of a library that was not loaded");
    const std::string_view path = map->l_name;
    return std::string(path.substr(0, path.rfind('/') == path.npos ? 0 : path.rfind('/') + 1));
  }

 private:
  void* handle_ = nullptr;
  std::string why_;
};

/// The driver of NVIDIA's GPUs.
inline const RunTimeLibrary& cuda_driver() {
  static const RunTimeLibrary driver("libcuda.so.1");
  return driver;
}

/// GPUs that the driver lets this process use. Errors: ConfigError that begins with `asked` where there is no driver or it finds none.
inline int count_gpus(std::string_view asked) {
  const auto& driver = cuda_driver();
  check<ConfigError>(static_cast<bool>(driver), asked, ": this machine has no driver for NVIDIA's GPUs (", driver.why(), ")");
  int count = 0;
  int code = driver.call("cuInit", 0U);
  if (code == 0) code = driver.call("cuDeviceGetCount", &count);
  const char* said = nullptr;
  if (code != 0) driver.call("cuGetErrorString", code, &said);
  check<ConfigError>(code == 0 && count > 0, asked, ": the driver finds no GPU", said ? concat(" (", said, ")") : "");
  return count;
}

/// Loads libtorch_cuda from the folder of the LibTorch that is loaded. Errors: ConfigError that begins with `asked` where that cannot be.
inline void load_libtorch_cuda(std::string_view asked) {
  static const auto folder = RunTimeLibrary("libc10.so", RTLD_NOW | RTLD_NOLOAD).folder();
  static const RunTimeLibrary loaded(folder + "libtorch_cuda.so", RTLD_LAZY | RTLD_GLOBAL);
  check<ConfigError>(static_cast<bool>(loaded), asked, ": this LibTorch cannot use GPUs (", loaded.why(), ")");
}

}  // namespace detail

/// The GPU with this number among those that the process may use, ready for tensors.
///
/// Errors:  ConfigError in one sentence where there is no driver, no such GPU, or no LibTorch with CUDA.
/// Cost:    the first time a second or so, to load LibTorch's part for CUDA.
inline c10::Device cuda_device(int index = 0) {
  const auto asked = concat("device 'cuda:", index, "'");
  const int count = detail::count_gpus(asked);
  check<ConfigError>(0 <= index && index < count, asked, ": this machine has ", count, count == 1 ? " GPU" : " GPUs",
                     ", and the first is number 0");
  detail::load_libtorch_cuda(asked);
  const auto usable = c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA)
                          ? static_cast<int>(c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->deviceCount())
                          : 0;
  int cuda = 0;
  detail::cuda_driver().call("cuDriverGetVersion", &cuda);
  check<ConfigError>(index < usable, asked, ": LibTorch can use ", usable, " of ", count, " GPUs with this driver, which is that of CUDA ",
                     cuda / 1000, ".", cuda % 1000 / 10);
  check<ConfigError>(torch::cuda::is_available(), asked, ": LibTorch has looked for its part for CUDA before it was loaded, as the first "
                     "backward pass does, and it looks once; make the topology before");
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
}

/// A device ready for tensors: one of CUDA's by cuda_device, without a number the first; any other as it is.
inline c10::Device ready_device(c10::Device device) {
  return device.is_cuda() ? cuda_device(device.has_index() ? device.index() : 0) : device;
}

/// The device that "cpu", "cuda" or "cuda:1" names, ready for tensors. Errors: ConfigError for another word; those of cuda_device.
inline c10::Device device_named(std::string_view name) {
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  int index = 0;
  bool valid = name.substr(0, 4) == "cuda";
  if (valid && name.size() > 4) {
    valid = name[4] == ':' && name.size() > 5 && name.size() < 8;
    for (const char digit : name.substr(5)) {
      valid = valid && '0' <= digit && digit <= '9';
      index = 10 * index + (digit - '0');
    }
  }
  check<ConfigError>(valid, "device '", name, "': it must be cpu, cuda, or cuda and a number, such as cuda:1");
  return cuda_device(index);
}

}  // namespace rookery
