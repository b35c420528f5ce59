// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// A stand-in accelerator: LibTorch's PrivateUse1 device, whose memory host code cannot read.
//
// Every operator runs as LibTorch's CPU kernel, over a second mapping of the same pages; the addresses that a tensor of the device gives
// are mapped without any right, so that host code which follows one dies at that line. Operators that mix devices are refused as on a
// GPU. Copies from the device to the host are counted, and those operators that would wait for a GPU to size their result. A copy to
// pinned memory that does not block is not counted, and arrives when an event is waited for.
// A program includes this in all of its files or in one: the device is registered once, before main().

#include <sys/mman.h>
#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rookery::cases {

/// The device.
inline const at::Device fake_device{at::kPrivateUse1, 0};

namespace fake {

/// One file in memory, mapped twice: where tensors say that they are, without rights, and where operators find the same pages.
class Memory {
 public:
  static constexpr std::size_t size = std::size_t{1} << 36, unit = 64;      // bytes of address space; pages come when they are touched

  Memory() {
    const int file = memfd_create("fake_device", 0);
    TORCH_CHECK(file >= 0 && ftruncate(file, size) == 0, "fake device: no memory file");
    shown_ = map(PROT_NONE, file), real_ = map(PROT_READ | PROT_WRITE, file);
    close(file);
  }
  /// Process-wide; never unmapped, for tensors may live until the end.
  static Memory& of_process() {
    static auto* memory = new Memory;
    return *memory;
  }

  std::byte* allocate(std::size_t bytes) {
    const std::size_t units = (bytes + unit - 1) / unit;
    const std::lock_guard lock(mutex_);
    auto& free = free_[units];
    if (!free.empty()) {
      auto* block = free.back();
      free.pop_back();
      return block;
    }
    TORCH_CHECK(next_ + units * unit <= size, "fake device: out of memory");
    auto* block = shown_ + next_;
    next_ += units * unit;
    return block;
  }
  void give_back(std::byte* block, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    free_[(bytes + unit - 1) / unit].push_back(block);
  }
  /// Where an operator finds what a tensor of the device shows.
  void* real(const void* shown) const { return shown ? real_ + (static_cast<const std::byte*>(shown) - shown_) : nullptr; }

 private:
  static std::byte* map(int rights, int file) {
    void* memory = mmap(nullptr, size, rights, MAP_SHARED | MAP_NORESERVE, file, 0);
    TORCH_CHECK(memory != MAP_FAILED, "fake device: no address space");
    return static_cast<std::byte*>(memory);
  }
  std::byte *shown_ = nullptr, *real_ = nullptr;
  std::size_t next_ = 0;
  std::map<std::size_t, std::vector<std::byte*>> free_;      // blocks by their units
  std::mutex mutex_;
};

struct Block {
  std::byte* bytes;
  std::size_t size;
  static void release(void* block) {
    const std::unique_ptr<Block> held(static_cast<Block*>(block));
    Memory::of_process().give_back(held->bytes, held->size);
  }
};

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, fake_device};
    auto* block = new Block{Memory::of_process().allocate(bytes), bytes};
    return {block->bytes, block, &Block::release, fake_device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    const auto& memory = Memory::of_process();
    default_copy_data(memory.real(to), memory.real(from), bytes);
  }
};
inline DeviceAllocator allocator;

inline std::atomic<std::int64_t> to_host{0}, operators{0}, recorded{0};   // waits; operators so far, and at the last event
inline std::mutex last_mutex;
inline std::vector<std::string> waits;                       // what waited for the device

inline void count_wait(std::string what) {
  ++to_host;
  const std::lock_guard lock(last_mutex);
  waits.push_back(std::move(what));
}

/// Memory of the host that copies may reach behind its back.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    auto data = at::getCPUAllocator()->allocate(bytes);
    const std::lock_guard lock(mutex_);
    pinned_[static_cast<const std::byte*>(data.get())] = bytes;
    return data;
  }
  c10::DeleterFnPtr raw_deleter() const override { return at::getCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  /// Whether memory is pinned, or was before it was given back.
  bool has(const void* data) {
    const std::lock_guard lock(mutex_);
    auto after = pinned_.upper_bound(static_cast<const std::byte*>(data));
    if (after == pinned_.begin()) return false;
    --after;
    return static_cast<const std::byte*>(data) < after->first + after->second;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, std::size_t> pinned_;
};
inline PinnedAllocator pinned;

/// Copies to pinned memory that nobody has waited for: where they go, and what.
inline std::mutex under_way_mutex;
inline std::vector<std::pair<at::Tensor, at::Tensor>> under_way;

inline void finish_copies() {
  const std::lock_guard lock(under_way_mutex);
  for (const auto& [to, values] : under_way) to.copy_(values);
  under_way.clear();
}

/// The stream of a thread: the one that computes, or the one beside it.
inline const c10::Stream computing(c10::Stream::DEFAULT, fake_device), beside(c10::Stream::UNSAFE, fake_device, 1);
inline thread_local c10::Stream current = computing;
/// Copies to the device by the stream beside, which nobody has waited for: where they go, and what. An event that was recorded on it is its
/// address.
inline thread_local std::vector<std::pair<at::Tensor, at::Tensor>> copied_beside;
inline std::atomic<std::int64_t> ran_beside{0}, used_beside{0};   // copies, and tensors of which the allocator was told

inline void finish_beside();

/// One device, two streams. Work is done when it is asked for, but copies to pinned memory arrive when an event is waited for, and those of
/// the stream beside when the other stream waits for it.
struct GuardImpl final : c10::impl::NoOpDeviceGuardImpl<at::kPrivateUse1> {
  at::Device exchangeDevice(at::Device) const override { return fake_device; }
  at::Device getDevice() const override { return fake_device; }
  c10::Stream getStream(at::Device) const noexcept override { return current; }
  c10::Stream getStreamFromGlobalPool(at::Device, bool) const override { return beside; }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return std::exchange(current, stream); }
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    recorded = operators.load();
    *event = stream == beside ? &copied_beside : nullptr;
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event == &copied_beside && stream == computing) finish_beside();
  }
  bool queryEvent(void*) const override { return finish_copies(), true; }
  void synchronizeEvent(void*) const override {
    if (recorded == operators) count_wait("an event that was recorded just now");
    finish_copies();
  }
};

/// What LibTorch asks of any accelerator.
struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  bool isPinnedPtr(const void* data) const override { return pinned.has(data); }
};

inline bool is_here(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == at::kPrivateUse1; }

/// The same memory as a tensor of the host, for an operator.
inline at::Tensor shown_to_operator(const at::Tensor& tensor) {
  const auto& storage = tensor.storage();
  auto* data = Memory::of_process().real(storage.data_ptr().get());
  auto* owner = new c10::Storage(storage);
  c10::Storage host(c10::Storage::use_byte_size_t(), storage.nbytes(),
                    c10::DataPtr(data, owner, [](void* held) { delete static_cast<c10::Storage*>(held); }, at::kCPU), at::getCPUAllocator(),
                    /*resizable=*/true);
  auto view = at::detail::make_tensor<at::TensorImpl>(std::move(host), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) view._set_conj(true);
  return view;
}

inline at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype) {
  return at::detail::empty_strided_generic(sizes, strides, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype);
}

/// A tensor of the host, copied to the device.
inline at::Tensor moved_here(const at::Tensor& host) {
  if (!host.defined()) return host;
  auto device = empty_strided(host.sizes(), host.strides(), host.scalar_type());
  shown_to_operator(device).copy_(host);
  return device;
}

/// What `device` shows, after an operator made its view of the host another size: as many elements in new memory.
inline void take_size(const at::Tensor& device, const at::Tensor& view) {
  if (device.sizes() == view.sizes() && device.strides() == view.strides()) return;
  const auto made = moved_here(view);
  device.unsafeGetTensorImpl()->set_storage_keep_dtype(made.storage());
  device.unsafeGetTensorImpl()->set_sizes_and_strides(made.sizes(), made.strides(), 0);
}

/// Operators whose result's size, or value, the host waits for.
inline bool waits_for_device(std::string_view name) {
  static constexpr std::array<std::string_view, 12> all{"aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2",
      "aten::unique_dim", "aten::unique_consecutive", "aten::unique_dim_consecutive", "aten::equal", "aten::repeat_interleave",
      "aten::bincount", "aten::histc", "aten::is_nonzero"};
  return std::find(all.begin(), all.end(), name) != all.end();
}

inline bool indexes(std::string_view name) {
  return name == "aten::index" || name == "aten::index_put" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
}

/// Every operator that is not written below: the CPU's kernel on views of the same memory, its results as tensors of the device.
inline void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  const auto begin = stack->size() - count;
  ++operators;
  if (current == beside) finish_beside();                    // of its own stream they are there
  std::vector<std::pair<at::Tensor, at::Tensor>> views;      // of the device, of the host
  std::vector<std::vector<at::Tensor>> given(count);         // tensors of the device, an argument
  bool here = false, foreign = false;
  const auto view = [&](const at::Tensor& tensor, std::size_t argument) {
    if (!is_here(tensor)) {
      foreign = foreign || (tensor.defined() && tensor.dim() > 0 && tensor.is_cpu());
      given[argument].push_back(tensor);
      return tensor;
    }
    here = true;
    given[argument].push_back(tensor);
    return views.emplace_back(tensor, shown_to_operator(tensor)).second;
  };
  for (std::size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor()) {
      value = view(value.toTensor(), i);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(view(tensor, i));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional(view(*tensor, i)) : std::nullopt);
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == at::kPrivateUse1) {
      here = true;
      value = at::Device(at::kCPU);
    }
  }
  TORCH_CHECK(!(here && foreign), "fake device: ", schema.name(), " has a tensor of the host among tensors of the device");
  if (waits_for_device(schema.name())) count_wait(schema.name());
  if (indexes(schema.name()))                                // by booleans: their true ones are counted first
    for (const auto& index : given[1])
      if (index.defined() && (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte)) count_wait(schema.name());

  op.callBoxed(stack);

  for (const auto& [device, host] : views) take_size(device, host);
  const auto results = schema.returns().size();
  const auto first = stack->size() - results;
  for (std::size_t r = 0; r < results; ++r) {
    auto& value = (*stack)[first + r];
    const auto* alias = schema.returns()[r].alias_info();
    std::size_t source = count;
    if (alias)
      for (std::size_t i = 0; i < count; ++i)
        if (const auto* of = schema.arguments()[i].alias_info(); of && of->beforeSets() == alias->beforeSets()) source = i;
    if (value.isTensor()) {
      const auto result = value.toTensor();
      if (source < count && alias->isWrite()) {
        value = given[source].front();
      } else if (source < count && is_here(given[source].front())) {
        value = at::as_strided(given[source].front(), result.sizes(), result.strides(), result.storage_offset());
      } else if (here) {
        value = moved_here(result);
      }
    } else if (value.isTensorList() && here) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& result : value.toTensorVector()) list.push_back(moved_here(result));
      value = list;
    }
  }
}

inline at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
                        std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype),
                                   format);
}
inline at::Tensor empty_strided_of(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                                   std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return empty_strided(sizes, strides, c10::dtype_or_default(dtype));
}
inline at::Tensor strided_view(const at::Tensor& self, at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<std::int64_t> offset) {
  auto result = at::detail::make_tensor<at::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset.value_or(self.storage_offset()));
  return result;
}
inline at::Tensor view(const at::Tensor& self, at::IntArrayRef sizes) {
  const auto shape = shown_to_operator(self).view(sizes);
  return strided_view(self, shape.sizes(), shape.strides(), {});
}
inline at::Tensor reshape_alias(const at::Tensor& self, at::IntArrayRef sizes, at::IntArrayRef strides) {
  return strided_view(self, sizes, strides, {});
}
inline const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  auto view = shown_to_operator(self);
  view.resize_(sizes);
  take_size(self, view);
  return self;
}
/// Until somebody waits there is nothing to read.
inline void leave_for_later(const at::Tensor& to) {
  if (to.is_floating_point()) to.fill_(std::numeric_limits<double>::quiet_NaN());
  else to.fill_(-1);
}
inline void finish_beside() {
  for (const auto& [to, values] : std::exchange(copied_beside, {})) shown_to_operator(to).copy_(values);
}
inline void record_stream(at::Tensor&, c10::Stream stream) { used_beside += stream == computing; }

inline at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  if (current == beside && is_here(to) && !is_here(self) && self.numel() > 0) {
    leave_for_later(shown_to_operator(to));
    copied_beside.emplace_back(to, self.clone());
    ++ran_beside;
    return to;
  }
  if (self.numel() > 0 && is_here(self) && !is_here(to)) {
    if (non_blocking && pinned.has(to.const_data_ptr())) {
      leave_for_later(to);
      const std::lock_guard lock(under_way_mutex);
      under_way.emplace_back(to, shown_to_operator(self).clone());
      return to;
    }
    count_wait("copy to the host");
  }
  auto into = is_here(to) ? shown_to_operator(to) : to;
  into.copy_(is_here(self) ? shown_to_operator(self) : self);
  return to;
}
inline at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (to.sizes() != self.sizes()) to.resize_(self.sizes());
  return copy_from(self, to, false);
}
inline at::Scalar local_scalar_dense(const at::Tensor& self) {
  count_wait("item()");
  return shown_to_operator(self).item();
}

/// Everything that makes it a device. Before the first backward pass of the process: autograd counts devices once.
struct Registered {
  torch::Library all{torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__};
  torch::Library aten{torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__};

  Registered() {
    static const GuardImpl guard;
    c10::impl::device_guard_impl_registry[static_cast<std::size_t>(at::kPrivateUse1)].store(&guard);
    c10::SetAllocator(at::kPrivateUse1, &allocator);
    static Hooks hooks;
    at::RegisterPrivateUse1HooksInterface(&hooks);
    c10::register_privateuse1_backend("fake");
    all.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
    aten.impl("empty.memory_format", TORCH_FN(empty));
    aten.impl("empty_strided", TORCH_FN(empty_strided_of));
    aten.impl("as_strided", TORCH_FN(strided_view));
    aten.impl("view", TORCH_FN(view));
    aten.impl("_reshape_alias", TORCH_FN(reshape_alias));
    aten.impl("resize_", TORCH_FN(resize));
    aten.impl("_copy_from", TORCH_FN(copy_from));
    aten.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
    aten.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
    aten.impl("record_stream", TORCH_FN(record_stream));
  }
};
inline const Registered registered;

}  // namespace fake

/// How often the host waited for the device since the last call: copies to the host, item(), results sized by values, an event
/// with nothing to do since.
inline std::int64_t device_to_host() { return fake::to_host.exchange(0); }
/// What it waited for, in order, since the last call.
inline std::vector<std::string> device_waits() {
  const std::lock_guard lock(fake::last_mutex);
  return std::exchange(fake::waits, {});
}
/// The numbers of a tensor of the device, as a tensor of the host that shares its memory; not counted.
inline at::Tensor seen_on_device(const at::Tensor& tensor) {
  return fake::is_here(tensor) ? fake::shown_to_operator(tensor.detach()) : tensor.detach();
}

}  // namespace rookery::cases
