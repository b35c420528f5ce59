// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// SideStream: a stream of a device beside the one that computes, for copies and whatever else can be done before its turn.
//
// Goes by LibTorch's own interface of streams and events, so it is the same for every kind of device.  Include cost: tensor.

#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/InlineStreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <optional>

namespace rookery {

class SideStream {
 public:
  /// Calls `fn()` with this stream current, to come after all that the current one was given by now. Nothing waits on the host.
  ///
  /// Result:  reached once that is done. Whoever goes on with it lets its own stream wait (`block`), and tells the allocator that tensors
  ///          which were made here are used there (`record_stream`).
  /// Errors:  LibTorch's, for a device without streams.
  template <class Fn> [[gnu::cold]] c10::Event run(c10::Device device, Fn&& fn) {
    const c10::impl::VirtualGuardImpl streams(device.type());
    if (!stream_) stream_ = streams.getStreamFromGlobalPool(device);
    c10::Event so_far(device.type()), done(device.type());
    so_far.record(streams.getStream(device));
    so_far.block(*stream_);
    {
      const c10::impl::InlineStreamGuard<c10::impl::VirtualGuardImpl> guard(*stream_);
      fn();
    }
    done.record(*stream_);
    return done;
  }

 private:
  std::optional<c10::Stream> stream_;        // drawn when it is first needed
};

}  // namespace rookery
