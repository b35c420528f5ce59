// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Nccl: ranks as processes with a GPU each. Tensors of the GPU go over NCCL, tensors of the host over Gloo (topology/basic_nccl.hpp).
//
// The only header with nccl.h, which is that of NCCL 2.28 or later; beside it there are headers of LibTorch's c10/cuda. Both, and the
// libraries, are in packages that the LibTorch wheel names: nvidia-nccl-cu13, nvidia-cuda-runtime, -crt and -cccl. A program links
// libc10_cuda, libcudart and libnccl; LibTorch's operators on a GPU are loaded when it joins (topology/cuda.hpp).
// Answers to torch.distributed with the backend cpu:gloo,cuda:nccl, without Python.  Include cost: c10d and CUDA, 10 s.

#if !__has_include(<nccl.h>)
#error "rookery/topology/nccl.hpp: there is no nccl.h; it is in nvidia/nccl/include beside the torch of a wheel"
#endif

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstddef>
#include <cstring>
#include <string>

#include <rookery/core/error.hpp>
#include <rookery/topology/basic_nccl.hpp>
#include <rookery/topology/cuda.hpp>

#if NCCL_VERSION_CODE < 22800
#error "rookery/topology/nccl.hpp: nccl.h is older than 2.28"
#endif

namespace rookery {

/// NCCL and the CUDA runtime as they are. Codes are NCCL's.
class NcclApi {
 public:
  using Communicator = ncclComm_t;
  using Stream = c10::cuda::CUDAStream;
  using Event = c10::cuda::CUDAEvent;
  using Guard = c10::cuda::CUDAGuard;
  static constexpr int header_version = NCCL_VERSION_CODE;
  static constexpr int success = ncclSuccess, in_progress = ncclInProgress;

  int library_version(int& found) const { return ncclGetVersion(&found); }
  std::string what(int code) const {
    std::string said = ncclGetErrorString(static_cast<ncclResult_t>(code));
    if (const char* last = ncclGetLastError(nullptr); last && *last) said += concat(": ", last);
    return said;
  }

  /// The one that there is, or the one with the number of this rank on its node.
  c10::Device take_device(int local_rank) const {
    const int devices = detail::count_gpus("its GPU");
    check<ConfigError>(devices == 1 || local_rank < devices, "it has number ", local_rank, " on its node, which has ", devices, " GPUs");
    const auto device = cuda_device(devices == 1 ? 0 : local_rank);
    C10_CUDA_CHECK(cudaSetDevice(device.index()));
    return device;
  }
  bool is_on_device(const at::Tensor& tensor) const { return tensor.is_cuda(); }

  Stream make_stream(c10::Device device) const { return c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index()); }
  Stream current_stream(c10::Device device) const { return c10::cuda::getCurrentCUDAStream(device.index()); }
  void record(Event& event, const Stream& stream) const { event.record(stream); }
  void wait(const Stream& stream, Event& event) const { event.block(stream); }
  bool is_done(Event& event) const { return event.query(); }
  void copy(void* to, const void* from, std::size_t bytes, const Stream& stream) const {
    C10_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
  }

  int make_id(std::string& bytes) const {
    ncclUniqueId id;
    const auto code = ncclGetUniqueId(&id);
    bytes.assign(id.internal, sizeof id.internal);
    return code;
  }
  /// One that does not block, so that no call hangs when another rank does not come.
  static ncclConfig_t config() {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.commName = "rookery";
    return config;
  }
  int start(Communicator& made, int ranks, const std::string& bytes, int rank) const {
    ncclUniqueId id;
    check<CommunicationError>(bytes.size() == sizeof id.internal, "an id of NCCL has ", sizeof id.internal, " bytes, not ", bytes.size());
    std::memcpy(id.internal, bytes.data(), sizeof id.internal);
    auto how = config();
    return ncclCommInitRankConfig(&made, ranks, id, rank, &how);
  }
  /// The communicator's: success, in progress, or why it has failed.
  int state(Communicator communicator) const {
    ncclResult_t state = ncclSuccess;
    const auto code = ncclCommGetAsyncError(communicator, &state);
    return code == ncclSuccess ? state : code;
  }
  int finalize(Communicator communicator) const { return ncclCommFinalize(communicator); }
  int destroy(Communicator communicator) const { return ncclCommDestroy(communicator); }
  int abort(Communicator communicator) const { return ncclCommAbort(communicator); }

  int group_start() const { return ncclGroupStart(); }
  int group_end() const { return ncclGroupEnd(); }
  int send(const void* from, std::size_t bytes, int to, Communicator communicator, const Stream& stream) const {
    return ncclSend(from, bytes, ncclUint8, to, communicator, stream);
  }
  int receive(void* to, std::size_t bytes, int from, Communicator communicator, const Stream& stream) const {
    return ncclRecv(to, bytes, ncclUint8, from, communicator, stream);
  }
  int all_to_all(const void* from, void* to, std::size_t bytes_each, Communicator communicator, const Stream& stream) const {
    return ncclAlltoAll(from, to, bytes_each, ncclUint8, communicator, stream);
  }
  int all_gather(const void* from, void* to, std::size_t bytes, Communicator communicator, const Stream& stream) const {
    return ncclAllGather(from, to, bytes, ncclUint8, communicator, stream);
  }
  int all_reduce(const void* from, void* to, std::size_t count, at::ScalarType dtype, ReduceOp op, Communicator communicator,
                 const Stream& stream) const {
    const auto reduction = op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
    return ncclAllReduce(from, to, count, dtype_of(dtype), reduction, communicator, stream);
  }
  int broadcast(const void* from, void* to, std::size_t bytes, int root, Communicator communicator, const Stream& stream) const {
    return ncclBroadcast(from, to, bytes, ncclUint8, root, communicator, stream);
  }

  /// Errors: ConfigError for a dtype that NCCL cannot reduce.
  static ncclDataType_t dtype_of(at::ScalarType dtype) {
    switch (dtype) {
      case at::kFloat: return ncclFloat32;
      case at::kDouble: return ncclFloat64;
      case at::kHalf: return ncclFloat16;
      case at::kBFloat16: return ncclBfloat16;
      case at::kLong: return ncclInt64;
      case at::kInt: return ncclInt32;
      case at::kByte: return ncclUint8;
      case at::kChar: return ncclInt8;
      default: fail<ConfigError>("nccl: it cannot reduce a tensor of ", c10::toString(dtype));
    }
  }
};

/// One process of a group with a GPU each.
///
///   auto topology = Nccl::join(ProcessEnvironment::read());    ...    topology.leave();
/// or by with_topology, which also says why a rank failed.
using Nccl = BasicNccl<NcclApi>;

}  // namespace rookery
