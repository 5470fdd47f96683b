// scale_space_weights on the CPU: a tile is TILE pixels of one image with all their scales.
#include "rows.h"
#include "tiles.h"
#include "weights.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_weights"};
constexpr int64_t TILE = 1024;

// The logits (N, K, h, w), and views of tensors of their shape or with one channel in place of K.
struct Logits {
  const Tensor& tensor;
  int64_t batch, scales, pixels;
  AnyMap map;

  explicit Logits(const Tensor& t)
      : tensor(t), batch(t.size(0)), scales(t.size(1)), pixels(t.size(2) * t.size(3)), map(like("logits", t, scales)) {
    STD_TORCH_CHECK(scales > 0, check.op, ": logits must have a scale");
  }

  AnyMap like(const char* name, const Tensor& t, int64_t channels) const {
    return {check, name, t, {batch, channels, tensor.size(2), tensor.size(3)}};
  }
  std::optional<AnyMap> like(const char* name, const std::optional<Tensor>& t, int64_t channels) const {
    return t ? std::optional<AnyMap>(like(name, *t, channels)) : std::nullopt;
  }
};

template <class Acc, class Phi>
void forward(const Tensor& logits, bool opaque_last, const Tensor& weights, const Tensor& transmittance) {
  const Logits y(logits);
  const AnyMap w = y.like("weights", weights, y.scales), t = y.like("transmittance", transmittance, 1);
  const int64_t scales = y.scales, size = scales * TILE;
  for_each_tile<Acc>(y.batch, y.pixels, TILE, 3 * size + TILE, [&](const Piece& tile, Acc* y_rows) {
    Acc *w_rows = y_rows + size, *t_rows = w_rows + size, *depth_sum = t_rows + size;
    for (int64_t k = 0; k < scales; ++k) y.map.read_pixels(tile.n, k, tile.first, tile.count, y_rows + k * TILE);
    weigh_rows<Phi>(scales, opaque_last, TILE, tile.count, y_rows, w_rows, t_rows, depth_sum);
    for (int64_t k = 0; k < scales; ++k) w.write_pixels(tile.n, k, tile.first, tile.count, w_rows + k * TILE);
    t.write_pixels(tile.n, 0, tile.first, tile.count, depth_sum - TILE);
  });
}

template <class Acc, class Phi>
void backward(const std::optional<Tensor>& grad_weights, const std::optional<Tensor>& grad_transmittance,
              const Tensor& logits, bool opaque_last, const Tensor& grad_logits) {
  const Logits y(logits);
  const AnyMap dy = y.like("grad_logits", grad_logits, y.scales);
  const auto dw = y.like("grad_weights", grad_weights, y.scales);
  const auto dt = y.like("grad_transmittance", grad_transmittance, 1);
  const int64_t scales = y.scales, size = scales * TILE;
  for_each_tile<Acc>(y.batch, y.pixels, TILE, 4 * size + 2 * TILE, [&](const Piece& tile, Acc* y_rows) {
    Acc *w_rows = y_rows + size, *t_rows = w_rows + size, *g_rows = t_rows + size;
    Acc *behind = g_rows + size, *depth_sum = behind + TILE;
    const int64_t count = tile.count;
    std::fill_n(g_rows, size + TILE, Acc(0));
    for (int64_t k = 0; k < scales; ++k) {
      y.map.read_pixels(tile.n, k, tile.first, count, y_rows + k * TILE);
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
