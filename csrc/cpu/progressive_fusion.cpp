// progressive_fusion on the CPU: out = sum_k A_k B_k F_k with A_k = a_k prod_{j>k} (1-a_j) at every pixel and
// B_k = b_k prod_{j>k} (1-b_j) at every channel, a_k and b_k the sigmoids of the logits.
//
// The weight of an element is a value along the row times a value across the rows, as in attentive_fusion.cpp.
#include "factor.h"
#include "terms.h"

namespace afa {
namespace {

constexpr Checker check{"progressive_fusion"};
constexpr int64_t TILE = 2048;  // elements of a row, or pixels, that are worked on at a time

// What forward and backward read.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  Layout layout;
  Factor<Acc> a, b;
  std::vector<Map<const T>> maps;

  Fusion(const std::vector<Tensor>& features, const std::vector<Tensor>& spatial, const std::vector<Tensor>& channel)
      : layout(check.first("features", features)),
        a(check, layout, spatial, Of::pixels, "spatial_logits"),
        b(check, layout, channel, Of::channels, "channel_logits") {
    check.count("spatial_logits", spatial.size(), features.size());
    check.count("channel_logits", channel.size(), features.size());
    for (const Tensor& t : features) maps.push_back(check.map<const T>("features", t, layout));
  }

  const Factor<Acc>& along() const { return layout.channels_last ? b : a; }
  const Factor<Acc>& across() const { return layout.channels_last ? a : b; }
};

// Calls body(std::integral_constant<int, of>()) with how many of `count` rows, up to four, are added up in one pass.
template <class F>
void dispatch_count(int64_t count, const F& body) {
  switch (count) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    default: return body(std::integral_constant<int, 4>());
  }
}

template <class T, class Acc = acc_t<T>>
void forward(const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
             const std::vector<Tensor>& channel, const Tensor& out) {
  const Fusion<T> fusion(features, spatial, channel);
  const Layout& layout = fusion.layout;
  const auto o = check.map<T>("out", out, layout);
  const bool stream = streamed(out, from_registers<T>());
  back_with_huge_pages(out);
  const auto inputs = static_cast<int64_t>(features.size());
  dispatch_count(inputs, [&](auto count) {
    const int64_t first = inputs - count;  // of more inputs than these: how many are added up before, one by one
    for_each_rows<Acc>(layout, TILE, (2 + count) * TILE, [&](const Piece& piece, int64_t rows, Acc* sums) {
      const auto term = [&](int64_t k) {
        return Term<T>{rows_at(layout, fusion.maps[k], piece.n, piece.row, piece.first),
                       fusion.along().weights(piece.n, k) + piece.first,
                       fusion.across().weights(piece.n, k) + piece.row};
      };
      Acc* buffer = sums + 2 * TILE;
      Rows<const Acc> before{};
      for (int64_t k = 0; k < first; ++k, before = {sums, piece.count})
        sum_terms<T, 1>({term(k)}, before, rows, piece.count, false, buffer, Rows<Acc>{sums, piece.count});
      Terms<T, count> terms;
      for (int k = 0; k < count; ++k) terms[k] = term(first + k);
      sum_terms<T, count>(terms, before, rows, piece.count, stream, buffer,
                          rows_at(layout, o, piece.n, piece.row, piece.first));
    });
  });
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
              const std::vector<Tensor>& channel, const Gradients& grads) {
  const Fusion<T> fusion(features, spatial, channel);
  const Layout& layout = fusion.layout;
  const auto g = check.map<const T>("grad", grad, layout);
  const int64_t inputs = features.size(), channels = layout.channels;
  std::vector<Map<T>> dx;
  std::vector<std::optional<AnyMap>> ds, dq;
  std::vector<bool> stream;
  bool spatial_needed = false, channel_needed = false;
  for (int64_t k = 0; k < inputs; ++k) {
    dx.push_back(check.map<T>("grad of features", grads[k], layout));
    ds.push_back(optional_map(check, "grad of spatial_logits", grads[inputs + k], fusion.a.shape));
    dq.push_back(optional_map(check, "grad of channel_logits", grads[2 * inputs + k], fusion.b.shape));
    stream.push_back(streamed(grads[k], from_registers<T>()));
    if (grads[k]) back_with_huge_pages(*grads[k]);
    spatial_needed |= ds[k].has_value();
    channel_needed |= dq[k].has_value();
  }
  // Sums over pixels run in the lanes of a row in NCHW, else one by one: shorter, or they lose float32's last digits.
  const int64_t tile_size = layout.channels_last ? TILE / 4 : TILE, tiles = ceil_div(layout.pixels, tile_size);
  std::vector<Acc> channel_sums(channel_needed ? layout.batch * tiles * inputs * channels : 0);

  const int64_t longest = std::max(channels, tile_size), scratch = (2 * inputs + 4) * longest;
  for_each_tile<Acc>(layout.batch, layout.pixels, tile_size, scratch, [&](const Piece& tile, Acc* buffer) {
    const int64_t rows = layout.channels_last ? tile.count : channels;
    const int64_t steps = layout.channels_last ? channels : tile.count;
    const int64_t first_row = layout.channels_last ? tile.first : 0, first = layout.channels_last ? 0 : tile.first;
    Acc *sums_along = buffer + 4 * longest, *sums_across = sums_along + inputs * rows;
    std::fill_n(sums_across, inputs * steps, Acc(0));
    const int64_t together = rows_together(steps, tile_size);
    for (int64_t r = 0; r < rows; r += together) {
      const auto at = [&](const auto& map) { return rows_at(layout, map, tile.n, first_row + r, first); };
      for (int64_t k = 0; k < inputs; ++k) {
        const Terms<T, 1> term{{{at(fusion.maps[k]), fusion.along().weights(tile.n, k) + first,
                                 fusion.across().weights(tile.n, k) + first_row + r}}};
        Acc* sums = spatial_needed || channel_needed ? sums_across + k * steps : nullptr;
        differentiate_terms<T, 1>(at(g), term, std::min(together, rows - r), steps, stream[k], buffer,
                                  {grads[k] ? at(dx[k]) : Rows<T>{}}, sums, sums_along + k * rows + r);
      }
    }
    Acc* of_pixels = layout.channels_last ? sums_along : sums_across;
    Acc* of_channels = layout.channels_last ? sums_across : sums_along;
    if (channel_needed) std::copy_n(of_channels, inputs * channels, &channel_sums[tile.unit * inputs * channels]);
    if (spatial_needed)
      fusion.a.write_gradients(tile.n, tile.first, tile.count, of_pixels, tile.count, buffer + 3 * longest, ds);
  });

  for (int64_t n = 0; n < layout.batch && channel_needed; ++n) {
    std::vector<double> total((inputs + 1) * channels);
    for (int64_t unit = n * tiles; unit < (n + 1) * tiles; ++unit)
      for (int64_t i = 0; i < inputs * channels; ++i) total[i] += channel_sums[unit * inputs * channels + i];
    fusion.b.write_gradients(n, 0, channels, total.data(), channels, &total[inputs * channels], dq);
  }
}

void progressive_fusion_forward(std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                                std::vector<Tensor> channel_logits, Tensor out) {
  dispatch(out.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(features, spatial_logits, channel_logits, out); });
}

void progressive_fusion_backward(Tensor grad, std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                                 std::vector<Tensor> channel_logits, std::vector<bool> needed,
                                 std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, 3 * features.size());
  dispatch(grad.scalar_type(), check.op,
           [&](auto t) { backward<decltype(t)>(grad, features, spatial_logits, channel_logits, all); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("progressive_fusion_forward", TORCH_BOX(&afa::progressive_fusion_forward));
  m.impl("progressive_fusion_backward", TORCH_BOX(&afa::progressive_fusion_backward));
}
