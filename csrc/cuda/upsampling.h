// What the launchers of upsampled_fusion and upsampled_pool share.
#pragma once

#include "launch.h"
#include "upsampling.cuh"

namespace afa {

// The factor of weights (2f, 2f, C).
inline int64_t factor_of(const Checker& check, const Tensor& weight) {
  const int64_t taps = weight.dim() == 3 ? weight.size(0) : 0;
  STD_TORCH_CHECK(taps == 4 || taps == 8 || taps == 16, check.op, ": weight must have shape (2 f, 2 f, C) with f = 2, ",
                  "4 or 8");
  return taps / 2;
}

// The layout of a map of the same images and channels.
inline Layout resized(Layout layout, int64_t height, int64_t width) {
  layout.height = height;
  layout.width = width;
  layout.pixels = height * width;
  return layout;
}

// A deep map of that layout, and its weights.
template <class T>
Upsampled<T> upsampled_of(const Checker& check, const Tensor& deep, const Tensor& weight, const Layout& layout) {
  using Acc = acc_t<T>;
  const int64_t factor = factor_of(check, weight), taps = 4 * factor * factor, most = INT32_MAX;
  STD_TORCH_CHECK(factor * factor * layout.pixels <= most && taps * layout.channels <= most, check.op,
                  ": what is upsampled must have at most ", most, " pixels, and as many weights");
  STD_TORCH_CHECK(weight.size(1) == 2 * factor, check.op, ": weight must be as wide as high");
  const auto number = [](int64_t value) { return static_cast<int32_t>(value); };
  return {rows_of(check.map<const T>("deep", deep, layout.shape(), layout.channels_last), layout),
          check.flat<const Acc>("weight", weight, taps * layout.channels),
          number(layout.channels),
          number(layout.height),
          number(layout.width),
          factor == 2   ? 1
          : factor == 4 ? 2
                        : 3};
}

template <class T>
int upsampled_pack(bool packed) {
  return packed ? UPSAMPLED<T, true> : UPSAMPLED<T, false>;
}

// Whether a thread of channels_last reads 16 bytes of the deep map and of the weights at a time.
template <class T>
bool aligned(const Upsampled<T>& up, const Layout& layout) {
  return aligned(up.deep, layout) && reinterpret_cast<uintptr_t>(up.weight) % 16 == 0;
}

// The gradients of the deep map, of that layout, and of the weights, where they are needed.
template <class T, class Upstream>
void collect(const Checker& check, const Launcher& launch, const Layout& layout, const Upsampled<T>& up,
             const Upstream& upstream, bool upstream_aligned, const std::optional<Tensor>& grad_deep,
             const std::optional<Tensor>& grad_weight, const Tensor& like) {
  using Acc = acc_t<T>;
  constexpr int64_t ENOUGH = 512;  // blocks; of no more the sums of channels_last are added up
  const int64_t width = 2 << up.shift, taps = width * width;
  const auto d_deep = rows_of(check.map<T>("grad of deep", grad_deep, layout), layout);
  const bool packed = layout.channels_last && aligned(up, layout) && aligned(d_deep, layout) && upstream_aligned;
  const int pack = upsampled_pack<T>(packed);
  Tiling tiling = tiling_of(layout, pack);
  if (layout.channels_last) tiling = tiling_of(layout, pack, ceil_div(ENOUGH, layout.batch * tiling.chunks));
  const int64_t parts = layout.batch * (layout.channels_last ? tiling.splits : tiling.chunks);
  std::optional<Tensor> memory;
  WeightGradient of_weight{};
  if (grad_weight) {
    check.shape("grad of weight", *grad_weight, {layout.channels, 1, width, width});
    dispatch(grad_weight->scalar_type(), check.op, [](auto) {});
    memory = scratch<Acc>(like, taps * parts * layout.channels);
    of_weight = {{grad_weight->data_ptr(), grad_weight->scalar_type()},
                 grad_weight->stride(0),
                 grad_weight->stride(2),
                 grad_weight->stride(3),
                 static_cast<int32_t>(width)};
  }
  Acc* sums = data_of<Acc>(memory);
  if (layout.channels_last)
    dispatch_packed<T>(
        [&](auto packed) {
          launch(collect_columns<T, packed, Upstream>, tiling.blocks(), tiling, up, upstream, d_deep, sums);
        },
        packed);
  else
    launch(collect_rows<T, Upstream>, tiling.blocks(), tiling, up, upstream, d_deep, sums);
  if (grad_weight) launch.finish(sums, taps, parts, layout.channels, of_weight);
}

}  // namespace afa
