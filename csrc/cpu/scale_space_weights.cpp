// scale_space_weights on the CPU: a tile is TILE pixels of one image with all their scales.
#include "rows.h"
#include "tiles.h"
#include "weights.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_weights"};
constexpr int64_t TILE = 1024;

Layout layout_of(const Tensor& logits) {
  const Layout layout(logits);
  STD_TORCH_CHECK(layout.channels > 0, check.op, ": logits must have scales");
  return layout;
}

template <class Acc, class Phi>
void forward(const Tensor& logits, bool opaque_last, const Tensor& weights, const Tensor& transmittance) {
  const Layout layout = layout_of(logits);
  const AnyMap y(check, "logits", logits, layout.shape()), w(check, "weights", weights, layout.shape());
  const AnyMap t(check, "transmittance", transmittance, layout.of_pixels());
  const int64_t scales = layout.channels, size = scales * TILE;
  for_each_tile<Acc>(layout.batch, layout.pixels, TILE, 3 * size + TILE, [&](const Piece& tile, Acc* y_rows) {
    Acc *w_rows = y_rows + size, *t_rows = w_rows + size, *depth_sum = t_rows + size;
    for (int64_t k = 0; k < scales; ++k) y.read_pixels(tile.n, k, tile.first, tile.count, y_rows + k * TILE);
    weigh_rows<Phi>(scales, opaque_last, TILE, tile.count, y_rows, w_rows, t_rows, depth_sum);
    for (int64_t k = 0; k < scales; ++k) w.write_pixels(tile.n, k, tile.first, tile.count, w_rows + k * TILE);
    t.write_pixels(tile.n, 0, tile.first, tile.count, depth_sum - TILE);
  });
}

template <class Acc, class Phi>
void backward(const std::optional<Tensor>& grad_weights, const std::optional<Tensor>& grad_transmittance,
              const Tensor& logits, bool opaque_last, const Tensor& grad_logits) {
  const Layout layout = layout_of(logits);
  const AnyMap y(check, "logits", logits, layout.shape()), dy(check, "grad_logits", grad_logits, layout.shape());
  const auto dw = optional_map(check, "grad_weights", grad_weights, layout.shape());
  const auto dt = optional_map(check, "grad_transmittance", grad_transmittance, layout.of_pixels());
  const int64_t scales = layout.channels, size = scales * TILE;
  for_each_tile<Acc>(layout.batch, layout.pixels, TILE, 4 * size + 2 * TILE, [&](const Piece& tile, Acc* y_rows) {
    Acc *w_rows = y_rows + size, *t_rows = w_rows + size, *g_rows = t_rows + size;
    Acc *behind = g_rows + size, *depth_sum = behind + TILE;
    const int64_t count = tile.count;
    std::fill_n(g_rows, size + TILE, Acc(0));
    for (int64_t k = 0; k < scales; ++k) {
      y.read_pixels(tile.n, k, tile.first, count, y_rows + k * TILE);
      if (dw) dw->read_pixels(tile.n, k, tile.first, count, g_rows + k * TILE);
    }
    weigh_rows<Phi>(scales, opaque_last, TILE, count, y_rows, w_rows, t_rows, depth_sum);
    if (dt) {
      dt->read_pixels(tile.n, 0, tile.first, count, behind);
      for (int64_t i = 0; i < count; ++i) behind[i] *= t_rows[(scales - 1) * TILE + i];
    }
    weigh_rows_backward<Phi>(scales, opaque_last, TILE, count, y_rows, w_rows, t_rows, g_rows, behind);
    for (int64_t k = 0; k < scales; ++k) dy.write_pixels(tile.n, k, tile.first, count, g_rows + k * TILE);
  });
}

void scale_space_weights_forward(Tensor logits, std::string phi, bool opaque_last, Tensor weights,
                                 Tensor transmittance) {
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    dispatch_phi(check, phi, [&](auto p) {
      forward<acc_t<decltype(t)>, decltype(p)>(logits, opaque_last, weights, transmittance);
    });
  });
}

void scale_space_weights_backward(std::optional<Tensor> grad_weights, std::optional<Tensor> grad_transmittance,
                                  Tensor logits, std::string phi, bool opaque_last, Tensor grad_logits) {
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    dispatch_phi(check, phi, [&](auto p) {
      backward<acc_t<decltype(t)>, decltype(p)>(grad_weights, grad_transmittance, logits, opaque_last, grad_logits);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_weights_forward", TORCH_BOX(&afa::scale_space_weights_forward));
  m.impl("scale_space_weights_backward", TORCH_BOX(&afa::scale_space_weights_backward));
}
