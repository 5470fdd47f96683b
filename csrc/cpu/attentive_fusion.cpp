// attentive_fusion on the CPU: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel).
#include "fusion.h"

namespace afa {
namespace {

constexpr Checker check{"attentive_fusion"};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel,
             const Tensor& out) {
  const Fusion<T> fusion(check, shallow, spatial, channel);
  const Layout& layout = fusion.layout;
  const auto x = check.map<const T>("shallow", shallow, layout), y = check.map<const T>("deep", deep, layout);
  const auto o = check.map<T>("out", out, layout);
  const bool stream = streamed(out, from_registers<T>());
  back_with_huge_pages(out);
  for_each_rows<Acc>(layout, TILE, 2 * TILE, [&](const Piece& piece, int64_t rows, Acc* buffer) {
    const auto at = [&](const auto& map) { return rows_at(layout, map, piece.n, piece.row, piece.first); };
    const Coefficients<Acc> k = fusion.coefficients(piece.n, 0);
    const Terms<T, 2> terms{{{at(x), k.x_along + piece.first, k.x_across + piece.row},
                             {at(y), k.y_along + piece.first, k.y_across + piece.row}}};
    sum_terms<T, 2>(terms, {}, rows, piece.count, stream, buffer, at(o));
  });
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& spatial,
              const Tensor& channel, const Gradients& grads) {
  const Fusion<T> fusion(check, shallow, spatial, channel);
  const Layout& layout = fusion.layout;
  // Sums over pixels run in the lanes of a row in NCHW, else one by one: shorter, or they lose float32's last digits.
  const int64_t tile_size = layout.channels_last ? TILE / 8 : TILE;
  const int64_t channels = layout.channels, tiles = ceil_div(layout.pixels, tile_size);
  const auto g = check.map<const T>("grad", grad, layout);
  const auto x = check.map<const T>("shallow", shallow, layout), y = check.map<const T>("deep", deep, layout);
  const auto dx = check.map<T>("grad of shallow", grads[0], layout);
  const auto dy = check.map<T>("grad of deep", grads[1], layout);
  const auto ds = optional_map(check, "grad of spatial_logits", grads[2], layout.of_pixels());
  const auto dq = optional_map(check, "grad of channel_logits", grads[3], layout.of_channels());
  for (int64_t i : {0, 1})
    if (grads[i]) back_with_huge_pages(*grads[i]);
  const bool stream = streamed(grads[0], from_registers<T>()) || streamed(grads[1], from_registers<T>());
  std::vector<Acc> channel_sums(dq ? layout.batch * tiles * channels : 0);

  const int64_t longest = std::max(channels, tile_size);
  for_each_tile<Acc>(layout.batch, layout.pixels, tile_size, 7 * longest, [&](const Piece& tile, Acc* scratch) {
    const Coefficients<Acc> k = fusion.coefficients(tile.n, tile.first);
    const int64_t rows = layout.channels_last ? tile.count : channels;
    const int64_t steps = layout.channels_last ? channels : tile.count;
    const int64_t first_row = layout.channels_last ? tile.first : 0, first = layout.channels_last ? 0 : tile.first;
    Acc *along = scratch, *across = along + longest, *buffer = across + longest;
    std::fill_n(across, steps, Acc(0));
    const auto at = [&](const auto& map) { return rows_at(layout, map, tile.n, first_row, first); };
    const Terms<T, 2> terms{{{at(x), k.x_along, k.x_across}, {at(y), k.y_along, k.y_across}}};
    const auto at_grad = [&](const auto& map, int i) { return grads[i] ? at(map) : Rows<T>{}; };
    differentiate_terms<T, 2>(at(g), terms, rows, steps, stream, buffer, {at_grad(dx, 0), at_grad(dy, 1)},
                              ds || dq ? across : nullptr, along);
    Acc *of_pixels = layout.channels_last ? along : across, *of_channels = layout.channels_last ? across : along;
    if (ds) fusion.store_spatial(*ds, tile.n, tile.first, tile.count, of_pixels);
    if (dq) std::copy_n(of_channels, channels, &channel_sums[tile.unit * channels]);
  });
  if (dq) fusion.store_channel(*dq, channel_sums, tiles);
}

void attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits, Tensor out) {
  dispatch(shallow.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(shallow, deep, spatial_logits, channel_logits, out); });
}

void attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits,
                               std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, spatial_logits, channel_logits, check.spread(grads, needed, 4));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("attentive_fusion_forward", TORCH_BOX(&afa::attentive_fusion_forward));
  m.impl("attentive_fusion_backward", TORCH_BOX(&afa::attentive_fusion_backward));
}
