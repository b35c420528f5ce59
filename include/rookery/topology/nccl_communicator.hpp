// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NcclCommunicator: NCCL as topology/basic_nccl.hpp uses it. Collectives on a stream of its own, groups of sends and receives, errors as
// exceptions, an end that never hangs.
//
// `Api` is NCCL and the CUDA runtime by their own verbs (topology/nccl.hpp), or what stands for them in a test. The communicator does not
// block: a call may be under way when it returns, and `is_taken` asks. One thread at a time is inside NCCL.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>

namespace rookery::detail {

/// Bytes of a buffer that go to a rank, or come from it.
struct NcclPart {
  std::size_t begin = 0, bytes = 0;
};

/// Parts of so many rows each, one after the other.
inline std::vector<NcclPart> parts_of(const Counts& rows, std::size_t bytes_of_row) {
  std::vector<NcclPart> parts;
  std::size_t begin = 0;
  for (const auto one : rows) {
    parts.push_back({begin, static_cast<std::size_t>(one) * bytes_of_row});
    begin += parts.back().bytes;
  }
  return parts;
}

/// "2.28.9" for NCCL's own number of it.
inline std::string nccl_version_text(int version) { return concat(version / 10000, ".", version / 100 % 100, ".", version % 100); }

/// One rank of a communicator on one device.
///
/// Errors:  CommunicationError with what NCCL says; what the CUDA runtime throws.
/// Cost:    nothing waits, neither for other ranks nor for the device, but for what another thread does with the same communicator.
template <class Api> class NcclCommunicator {
 public:
  using Event = typename Api::Event;

  explicit NcclCommunicator(Api api) : api_(std::move(api)) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  /// One that has not ended in order is aborted: to end it would wait for the others.
  ~NcclCommunicator() { abort(); }

  /// Errors: ConfigError for a library that is older than the header; the reverse is NCCL's promise.
  void check_version() {
    int found = 0;
    call(api_.library_version(found));
    check<ConfigError>(found >= Api::header_version, "the NCCL that was loaded is ", nccl_version_text(found),
                       " and the program was compiled with the header of ", nccl_version_text(Api::header_version),
                       "; it must not be older");
  }
  /// Takes the device of this rank of its node. Errors: ConfigError where there is none.
  void take_device(int local_rank) {
    device_ = api_.take_device(local_rank);
    stream_.emplace(api_.make_stream(device_));
  }
  c10::Device device() const { return device_; }
  bool is_on_device(const at::Tensor& tensor) const { return api_.is_on_device(tensor); }

  /// What tells this communicator from every other one; made by rank 0.
  std::string make_id() {
    std::string id;
    call(api_.make_id(id));
    return id;
  }
  /// Begins to connect to the other ranks.
  void start(int ranks, const std::string& id, int rank) {
    const std::lock_guard lock(mutex_);
    const typename Api::Guard guard(device_);
    rank_ = rank;
    call(api_.start(communicator_, ranks, id, rank));
  }
  /// Whether NCCL has taken in what was called. Errors: CommunicationError for what has failed since, on the device too.
  bool is_taken() {
    const std::lock_guard lock(mutex_);
    check_there();
    const int code = api_.state(communicator_);
    call(code);
    return code == Api::success;
  }

  /// Puts what `fn(*this)` calls, the operations below, on the communicator's stream: after what is on the current one by now.
  template <class Fn> void enqueue(const Fn& fn) {
    const std::lock_guard lock(mutex_);
    check_there();
    const typename Api::Guard guard(device_);
    Event now;
    api_.record(now, api_.current_stream(device_));
    api_.wait(*stream_, now);
    fn(*this);
  }
  /// `done` will be when all is done that was put on the communicator's stream, and taken.
  void mark(Event& done) {
    const std::lock_guard lock(mutex_);
    api_.record(done, *stream_);
  }
  bool is_done(Event& done) { return api_.is_done(done); }
  /// What comes on the current stream waits for the event; this thread does not.
  void let_current_wait(Event& done) { api_.wait(api_.current_stream(device_), done); }

  /// Every rank gets `sent[r]` of `from` from this one, of which `received[r]` come to `to`: one group, in which sends and receives of all
  /// ranks meet in any order. No message for no bytes, on both sides; a rank's own bytes are copied.
  void exchange(const void* from, const std::vector<NcclPart>& sent, void* to, const std::vector<NcclPart>& received) {
    const auto* in = static_cast<const std::byte*>(from);
    auto* out = static_cast<std::byte*>(to);
    const auto ranks = sent.size(), self = static_cast<std::size_t>(rank_);
    if (sent[self].bytes > 0) api_.copy(out + received[self].begin, in + sent[self].begin, sent[self].bytes, *stream_);
    in_group([&] {
      for (std::size_t i = 1; i < ranks; ++i) {
        const auto next = (self + i) % ranks, previous = (self + ranks - i) % ranks;
        if (const auto& part = sent[next]; part.bytes > 0)
          call(api_.send(in + part.begin, part.bytes, static_cast<int>(next), communicator_, *stream_));
        if (const auto& part = received[previous]; part.bytes > 0)
          call(api_.receive(out + part.begin, part.bytes, static_cast<int>(previous), communicator_, *stream_));
      }
    });
  }
  /// `exchange` where every part of every rank has so many bytes, as all of them know.
  void exchange_equal(const void* from, void* to, std::size_t bytes_each) {
    call(api_.all_to_all(from, to, bytes_each, communicator_, *stream_));
  }
  /// Every rank gets `bytes` of each, which all know to be as many.
  void gather_equal(const void* from, void* to, std::size_t bytes) {
    call(api_.all_gather(from, to, bytes, communicator_, *stream_));
  }
  void all_reduce(const at::Tensor& from, const at::Tensor& to, ReduceOp op) {
    call(api_.all_reduce(from.const_data_ptr(), to.mutable_data_ptr(), static_cast<std::size_t>(from.numel()), from.scalar_type(), op,
                         communicator_, *stream_));
  }
  void broadcast(const void* from, void* to, std::size_t bytes, int root) {
    call(api_.broadcast(from, to, bytes, root, communicator_, *stream_));
  }

  /// Begins to end it in order: every rank calls it, when all is done.
  void finalize() {
    const std::lock_guard lock(mutex_);
    check_there();
    call(api_.finalize(communicator_));
  }
  /// When it has been finalized.
  void destroy() {
    const std::lock_guard lock(mutex_);
    check_there();
    call(api_.destroy(std::exchange(communicator_, nullptr)));
  }
  /// Ends it at once, with what is under way on the device.
  void abort() {
    const std::lock_guard lock(mutex_);
    if (communicator_) api_.abort(std::exchange(communicator_, nullptr));
  }

 private:
  void check_there() const { check<CommunicationError>(communicator_ != nullptr, "the communicator has ended"); }
  void call(int code) const {
    if (code == Api::success || code == Api::in_progress) [[likely]] return;
    fail<CommunicationError>("nccl: ", api_.what(code));
  }
  template <class Fn> void in_group(const Fn& fn) {
    call(api_.group_start());
    try {
      fn();
    } catch (...) {
      api_.group_end();
      throw;
    }
    call(api_.group_end());
  }

  Api api_;
  std::mutex mutex_;
  c10::Device device_{c10::DeviceType::CPU};
  std::optional<typename Api::Stream> stream_;
  typename Api::Communicator communicator_{};
  int rank_ = 0;
};

}  // namespace rookery::detail
