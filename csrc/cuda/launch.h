// How launchers launch: on the device of their tensors and its current stream, with every failure raised.
#pragma once

#include "device.h"

#ifdef __CUDACC__
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace afa {

// The current stream of a device, which is the current device meanwhile. Scratch is PyTorch's own memory, so that a
// CUDA graph may capture what is launched.
class Launcher {
 public:
  const char* op;

#ifdef __CUDACC__
  Launcher(const char* op, const Tensor& t) : op(op), guard_(t.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
#else
  Launcher(const char* op, const Tensor&) : op(op) {}
#endif

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, const Arguments&... arguments) const {
    STD_TORCH_CHECK(blocks > 0 && blocks <= INT32_MAX, op, ": a grid of ", blocks, " blocks cannot be launched");
#ifdef __CUDACC__
    kernel<<<static_cast<unsigned>(blocks), THREADS, 0, stream_>>>(arguments...);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
#else
    simt::launch(static_cast<unsigned>(blocks), THREADS, kernel, arguments...);
#endif
  }

  // Sums of each image, `count` rows of `width`, to be added up by finish(n, i, total).
  template <class Acc, class F>
  void finish(const Acc* sums, int64_t batch, int64_t count, int64_t width, const F& each) const {
    const int32_t columns = count <= 4 ? THREADS : WARP;
    (*this)(finish_sums<Acc, F>, batch* ceil_div(width, columns), sums, count, width, columns, each);
  }

 private:
#ifdef __CUDACC__
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
#endif
};

// Unfilled memory of this launch's, like `t` on its device.
template <class Acc>
Tensor scratch(const Tensor& t, int64_t count) {
  return torch::stable::new_empty(t, {count}, torch::headeronly::CppTypeToScalarType<Acc>::value);
}
template <class Acc>
Acc* data_of(const std::optional<Tensor>& t) {
  return t ? static_cast<Acc*>(t->data_ptr()) : nullptr;
}

// A row gets as few threads as have all of it, of one warp at most. Splits of 4 steps or more, as few as are no more
// than `most`.
inline Tiling tiling_of(const Layout& layout, int pack, int64_t most = INT32_MAX) {
  Tiling t{layout.batch, layout.rows(), layout.length(), 1, 4, 0, 0};
  while (t.lanes < WARP && t.lanes * pack < t.length) t.lanes *= 2;
  const int64_t at_once = THREADS / t.lanes;
  t.steps = std::max<int64_t>(t.steps, ceil_div(t.rows, at_once * most));
  t.chunks = ceil_div(t.length, t.lanes * pack);
  t.splits = ceil_div(t.rows, at_once * t.steps);
  return t;
}

template <class T>
Rows<T> rows_of(const Map<T>& map, const Layout& layout) {
  return {map.data, map.sn, layout.channels_last ? map.sp : map.sc};
}

// Whether every row starts where an access of 16 bytes may, and ends there.
template <class T>
bool aligned(const Rows<T>& rows, const Layout& layout) {
  return rows.data == nullptr ||
         (reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && (layout.batch == 1 || rows.sn % PACK<T> == 0) &&
          (layout.rows() == 1 || rows.sr % PACK<T> == 0) && layout.length() % PACK<T> == 0);
}

// Calls body with whether rows are packed, as a type, and with the flags as `dispatch_flags` does. Rows of float64
// never are: a library for all architectures is a tenth smaller for it, and nobody trains in it.
template <class T, class F, class... Flags>
void dispatch_packed(const F& body, bool packed, Flags... rest) {
  const auto of_rows = [&](auto packed) { dispatch_flags([&](auto... flags) { body(packed, flags...); }, rest...); };
  if constexpr (sizeof(T) < sizeof(double))
    if (packed) return of_rows(std::true_type{});
  of_rows(std::false_type{});
}

// One value a pixel, and one a channel, of any element type.
inline AnyRow any_pixels(const Checker& check, const char* name, const Tensor& t, const Layout& layout) {
  const auto map = check.view<char>(name, t, layout.of_pixels());
  dispatch(t.scalar_type(), check.op, [](auto) {});
  return {{map.data, t.scalar_type()}, map.sn, map.sp};
}
inline AnyRow any_channels(const Checker& check, const char* name, const Tensor& t, const Layout& layout) {
  const auto map = check.view<char>(name, t, layout.of_channels());
  dispatch(t.scalar_type(), check.op, [](auto) {});
  return {{map.data, t.scalar_type()}, map.sn, map.sc};
}

inline AnyMap any_map(const Checker& check, const char* name, const Tensor& t, const Shape& shape) {
  const auto map = check.view<char>(name, t, shape);
  dispatch(t.scalar_type(), check.op, [](auto) {});
  return {{map.data, t.scalar_type()}, map.sn, map.sc, map.sp};
}
inline AnyMap any_map(const Checker& check, const char* name, const std::optional<Tensor>& t, const Shape& shape) {
  return t ? any_map(check, name, *t, shape) : AnyMap{};
}

// Blocks for a thread a pixel.
inline int64_t blocks_of_pixels(int64_t batch, int64_t pixels) {
  return batch * ceil_div(pixels, THREADS);
}

}  // namespace afa
