// attentive_fusion on the CPU: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel).
//
// Every coefficient is a product of a value along the row and a value across the rows, so one loop serves both layouts.
#include "gate.h"

namespace afa {
namespace {

constexpr Checker check{"attentive_fusion"};
constexpr int64_t TILE = 4096;  // elements of a row, or pixels, that are worked on at a time

// x's coefficient is x_along[i] * x_across[row], y's likewise.
template <class Acc>
struct Coefficients {
  const Acc *x_along, *y_along, *x_across, *y_across;
};

// The gates a of all pixels and b of all channels.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  Layout layout;
  Gate<Acc> a, b;

  Fusion(const Tensor& shallow, const Tensor& spatial_logits, const Tensor& channel_logits)
      : layout(shallow), a(layout.batch * layout.pixels), b(layout.batch * layout.channels) {
    const AnyMap spatial(check, "spatial_logits", spatial_logits, layout.of_pixels());
    const AnyMap channel(check, "channel_logits", channel_logits, layout.of_channels());
    for_each_tile<Acc>(layout.batch, layout.pixels, TILE, 0, [&](const Piece& tile, Acc*) {
      const int64_t at = tile.n * layout.pixels + tile.first;
      spatial.read_pixels(tile.n, 0, tile.first, tile.count, &a.open[at]);
      a.activate(at, tile.count);
    });
    for_each_tile<Acc>(layout.batch, layout.channels, TILE, 0, [&](const Piece& tile, Acc*) {
      const int64_t at = tile.n * layout.channels + tile.first;
      channel.read_channels(tile.n, tile.first, tile.count, &b.open[at]);
      b.activate(at, tile.count);
    });
  }

  // From pixel `first` of image n on.
  Coefficients<Acc> coefficients(int64_t n, int64_t first) const {
    const int64_t p = n * layout.pixels + first, c = n * layout.channels;
    if (layout.channels_last) return {&b.shut[c], &b.open[c], &a.open[p], &a.shut[p]};
    return {&a.open[p], &a.shut[p], &b.shut[c], &b.open[c]};
  }
};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel,
             const Tensor& out) {
  const Fusion<T> fusion(shallow, spatial, channel);
  const Layout& layout = fusion.layout;
  const auto x = check.map<const T>("shallow", shallow, layout), y = check.map<const T>("deep", deep, layout);
  const auto o = check.map<T>("out", out, layout);
  const bool stream = streamed(out);
  back_with_huge_pages(out);
  for_each_row<Acc>(layout, TILE, 0, [&](const Piece& piece, Acc*) {
    const Coefficients<Acc> k = fusion.coefficients(piece.n, 0);
    const Acc x_across = k.x_across[piece.row], y_across = k.y_across[piece.row];
    const Acc *x_along = k.x_along + piece.first, *y_along = k.y_along + piece.first;
    const T* xr = layout.at(x, piece.n, piece.row, piece.first);
    const T* yr = layout.at(y, piece.n, piece.row, piece.first);
    fill_row<Acc>(layout.at(o, piece.n, piece.row, piece.first), piece.count, stream, [&](int64_t i) {
      return x_along[i] * x_across * static_cast<Acc>(xr[i]) + y_along[i] * y_across * static_cast<Acc>(yr[i]);
    });
  });
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& spatial,
              const Tensor& channel, const Gradients& grads) {
  const Fusion<T> fusion(shallow, spatial, channel);
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
  const bool stream_x = streamed(grads[0]), stream_y = streamed(grads[1]);
  std::vector<Acc> channel_sums(dq ? layout.batch * tiles * channels : 0);

  const int64_t longest = std::max(channels, tile_size);
  for_each_tile<Acc>(layout.batch, layout.pixels, tile_size, 7 * longest, [&](const Piece& tile, Acc* scratch) {
    const Coefficients<Acc> k = fusion.coefficients(tile.n, tile.first);
    const int64_t rows = layout.channels_last ? tile.count : channels;
    const int64_t steps = layout.channels_last ? channels : tile.count;
    Acc *along = scratch, *across = along + longest, *buffer = across + longest;
    std::fill_n(across, steps, Acc(0));
    const auto run = [&](auto of_x, auto of_y, auto of_logits) {
      const int64_t first_row = layout.channels_last ? tile.first : 0, first = layout.channels_last ? 0 : tile.first;
      for (int64_t r = 0; r < rows; ++r) {
        const Acc* gr = widened(layout.at(g, tile.n, first_row + r, first), steps, buffer);
        const Acc *xr = gr, *yr = gr;
        if (of_logits) {
          xr = widened(layout.at(x, tile.n, first_row + r, first), steps, buffer + longest);
          yr = widened(layout.at(y, tile.n, first_row + r, first), steps, buffer + 2 * longest);
        }
        T* dx_row = of_x ? layout.at(dx, tile.n, first_row + r, first) : nullptr;
        T* dy_row = of_y ? layout.at(dy, tile.n, first_row + r, first) : nullptr;
        Acc* dxr = computed_in(dx_row, buffer + 3 * longest, stream_x);
        Acc* dyr = computed_in(dy_row, buffer + 4 * longest, stream_y);
        const Acc x_across = k.x_across[r], y_across = k.y_across[r];
        const Acc *x_along = k.x_along, *y_along = k.y_along;
        Acc *sums = across, sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < steps; ++i) {
          if constexpr (of_x) dxr[i] = x_along[i] * x_across * gr[i];
          if constexpr (of_y) dyr[i] = y_along[i] * y_across * gr[i];
          if constexpr (of_logits) {
            const Acc gx = xr[i] * gr[i], gy = yr[i] * gr[i];
            sums[i] += x_across * gx - y_across * gy;
            sum += x_along[i] * gx - y_along[i] * gy;
          }
        }
        store(dxr, steps, dx_row, stream_x);
        store(dyr, steps, dy_row, stream_y);
        along[r] = sum;
      }
    };
    dispatch_flags(run, grads[0].has_value(), grads[1].has_value(), ds || dq);
    // sum over C of [(1-b) x - b y] g is the sum with the coefficients of the channels; over P, the sign is reversed.
    Acc *of_pixels = layout.channels_last ? along : across, *of_channels = layout.channels_last ? across : along;
    if (ds) {
      const int64_t at = tile.n * layout.pixels + tile.first;
      for (int64_t i = 0; i < tile.count; ++i) of_pixels[i] *= fusion.a.open[at + i] * fusion.a.shut[at + i];
      ds->write_pixels(tile.n, 0, tile.first, tile.count, of_pixels);
    }
    if (dq) std::copy_n(of_channels, channels, &channel_sums[tile.unit * channels]);
  });

  if (!dq) return;
  std::vector<double> total(channels);
  for (int64_t n = 0; n < layout.batch; ++n) {
    std::fill(total.begin(), total.end(), 0.0);
    for (int64_t unit = n * tiles; unit < (n + 1) * tiles; ++unit)
      for (int64_t c = 0; c < channels; ++c) total[c] += channel_sums[unit * channels + c];
    const Acc *open = &fusion.b.open[n * channels], *shut = &fusion.b.shut[n * channels];
    for (int64_t c = 0; c < channels; ++c) total[c] *= -static_cast<double>(open[c]) * shut[c];
    dq->write_channels(n, 0, channels, total.data());
  }
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
