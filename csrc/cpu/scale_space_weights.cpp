// scale_space_weights on the CPU: a tile is TILE pixels of one image with all their scales.
#include <algorithm>

#include "weights.h"

namespace afa {
namespace {

constexpr int64_t TILE = 1024;

// visit(n, first pixel, pixels) for every tile of the logits (N, K, h, w), in parallel.
template <class F>
void for_each_tile(const Tensor& logits, const F& visit) {
  const int64_t pixels = logits.size(2) * logits.size(3), tiles = ceil_div(pixels, TILE);
  torch::stable::parallel_for(0, logits.size(0) * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % tiles * TILE;
      visit(unit / tiles, first, std::min(TILE, pixels - first));
    }
  });
}

template <class Acc>
void forward(const Tensor& logits, const std::string& phi, bool opaque_last, const Tensor& weights,
             const Tensor& transmittance) {
  const int64_t scales = logits.size(1);
  const AnyMap y(logits, "logits"), w(weights, "weights"), t(transmittance, "transmittance");
  for_each_tile(logits, [&](int64_t n, int64_t first, int64_t count) {
    std::vector<Acc> scratch((3 * scales + 1) * TILE);
    Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * TILE, *t_rows = w_rows + scales * TILE;
    for (int64_t k = 0; k < scales; ++k) y.read_pixels(n, k, first, count, y_rows + k * TILE);
    dispatch_phi(phi, [&](auto p) {
      vectorized([&] {
        composite_rows<decltype(p)>(scales, opaque_last, TILE, count, y_rows, w_rows, t_rows, t_rows + scales * TILE);
      });
    });
    for (int64_t k = 0; k < scales; ++k) w.write_pixels(n, k, first, count, w_rows + k * TILE);
    t.write_pixels(n, 0, first, count, t_rows + (scales - 1) * TILE);
  });
}

template <class Acc>
void backward(const std::optional<Tensor>& grad_weights, const std::optional<Tensor>& grad_transmittance,
              const Tensor& logits, const std::string& phi, bool opaque_last, const Tensor& grad_logits) {
  const int64_t scales = logits.size(1);
  const AnyMap y(logits, "logits"), dy(grad_logits, "grad_logits");
  for_each_tile(logits, [&](int64_t n, int64_t first, int64_t count) {
    std::vector<Acc> scratch((4 * scales + 2) * TILE);
    Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * TILE, *t_rows = w_rows + scales * TILE;
    Acc *g_rows = t_rows + scales * TILE, *behind = g_rows + scales * TILE, *depth_sum = behind + TILE;
    for (int64_t k = 0; k < scales; ++k) {
      y.read_pixels(n, k, first, count, y_rows + k * TILE);
      if (grad_weights) AnyMap(*grad_weights, "grad_weights").read_pixels(n, k, first, count, g_rows + k * TILE);
    }
    if (grad_transmittance) AnyMap(*grad_transmittance, "grad_transmittance").read_pixels(n, 0, first, count, behind);
    dispatch_phi(phi, [&](auto p) {
      using Phi = decltype(p);
      vectorized([&] {
        composite_rows<Phi>(scales, opaque_last, TILE, count, y_rows, w_rows, t_rows, depth_sum);
        for (int64_t i = 0; i < count; ++i) behind[i] *= t_rows[(scales - 1) * TILE + i];
        composite_rows_backward<Phi>(scales, opaque_last, TILE, count, y_rows, w_rows, t_rows, g_rows, behind);
      });
    });
    for (int64_t k = 0; k < scales; ++k) dy.write_pixels(n, k, first, count, g_rows + k * TILE);
  });
}

void scale_space_weights_forward(Tensor logits, std::string phi, bool opaque_last, Tensor weights,
                                 Tensor transmittance) {
  dispatch(logits.scalar_type(), "scale_space_weights",
           [&](auto t) { forward<acc_t<decltype(t)>>(logits, phi, opaque_last, weights, transmittance); });
}

void scale_space_weights_backward(std::optional<Tensor> grad_weights, std::optional<Tensor> grad_transmittance,
                                  Tensor logits, std::string phi, bool opaque_last, Tensor grad_logits) {
  dispatch(logits.scalar_type(), "scale_space_weights", [&](auto t) {
    backward<acc_t<decltype(t)>>(grad_weights, grad_transmittance, logits, phi, opaque_last, grad_logits);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_weights_forward", TORCH_BOX(&afa::scale_space_weights_forward));
  m.impl("scale_space_weights_backward", TORCH_BOX(&afa::scale_space_weights_backward));
}
