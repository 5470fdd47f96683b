// What the fusions of a shallow and a deep map share: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial) and
// b = sigmoid(channel).
//
// Every coefficient is a product of a value along the row and a value across the rows, so one loop serves both layouts.
#pragma once

#include "gate.h"
#include "terms.h"

namespace afa {

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

  Fusion(const Checker& check, const Tensor& shallow, const Tensor& spatial_logits, const Tensor& channel_logits)
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

  // sum over C of [(1-b) x - b y] g is the sum with the coefficients of the channels; these are those of `count`
  // pixels.
  void store_spatial(const AnyMap& ds, int64_t n, int64_t first, int64_t count, Acc* sums) const {
    const int64_t at = n * layout.pixels + first;
    for (int64_t i = 0; i < count; ++i) sums[i] *= a.open[at + i] * a.shut[at + i];
    ds.write_pixels(n, 0, first, count, sums);
  }

  // Over P, the sign is reversed: `sums` are (N, tiles, C), with the coefficients of the pixels.
  void store_channel(const AnyMap& dq, const std::vector<Acc>& sums, int64_t tiles) const {
    const int64_t channels = layout.channels;
    std::vector<double> total(channels);
    for (int64_t n = 0; n < layout.batch; ++n) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t unit = n * tiles; unit < (n + 1) * tiles; ++unit)
        for (int64_t c = 0; c < channels; ++c) total[c] += sums[unit * channels + c];
      const Acc *open = &b.open[n * channels], *shut = &b.shut[n * channels];
      for (int64_t c = 0; c < channels; ++c) total[c] *= -static_cast<double>(open[c]) * shut[c];
      dq.write_channels(n, 0, channels, total.data());
    }
  }
};

}  // namespace afa
