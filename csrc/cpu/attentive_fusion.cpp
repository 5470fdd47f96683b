// attentive_fusion on the CPU: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel).
//
// A tile is a run of pixels of one image with all their channels, walked row by row. A row is what is contiguous in
// memory: one channel's pixels (NCHW) or one pixel's channels (channels_last). Every coefficient is a product of a
// value along the row and a value across the rows, so one loop serves both layouts. Tiles do not depend on the number
// of threads, hence neither does any sum.
#include <algorithm>

#include "../common.h"

namespace afa {
namespace {

// Pixels of a tile: long rows stream best; the backward goes over a row several times and wants it to stay in L1.
constexpr int64_t FORWARD_TILE = 4096, BACKWARD_TILE = 1024;

// sigmoid(z) and 1 - sigmoid(z) = sigmoid(-z), which stays accurate where sigmoid(z) rounds to 1.
template <class Acc>
struct Gate {
  std::vector<Acc> open, shut;

  explicit Gate(int64_t size) : open(size), shut(size) {}

  // The logits were read into `open`.
  void activate(int64_t count) {
    Acc* __restrict o = open.data();
    Acc* __restrict s = shut.data();
    for (int64_t i = 0; i < count; ++i) {
      const Acc z = o[i];
      o[i] = sigmoid(z);
      s[i] = sigmoid(-z);
    }
  }
};

// The tiles of a batch, and the two gates of the tile at hand.
template <class T>
struct Tiles {
  using Acc = acc_t<T>;
  int64_t batch, channels, pixels, tile, per_image;
  bool planar;
  AnyMap spatial, channel;

  Tiles(const Tensor& feature, const Tensor& spatial_logits, const Tensor& channel_logits, int64_t tile_pixels)
      : batch(feature.size(0)),
        channels(feature.size(1)),
        pixels(feature.size(2) * feature.size(3)),
        tile(tile_pixels),
        per_image(ceil_div(pixels, tile)),
        planar(as_map<T>(feature, "feature").sp == 1),
        spatial(spatial_logits, "spatial_logits"),
        channel(channel_logits, "channel_logits") {}

  // visit(unit, n, first pixel, pixels, a, b) for every tile, in parallel, compiled for the widest vectors.
  template <class F>
  void for_each(const F& visit) const {
    torch::stable::parallel_for(0, batch * per_image, 1, [&](int64_t begin, int64_t end) {
      Gate<Acc> a(tile), b(channels);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / per_image, first = unit % per_image * tile, count = std::min(tile, pixels - first);
        spatial.read_pixels(n, 0, first, count, a.open.data());
        const bool next_image = unit == begin || first == 0;
        if (next_image) channel.read_channels(n, channels, b.open.data());
        vectorized([&] {
          a.activate(count);
          if (next_image) b.activate(channels);
          visit(unit, n, first, count, a, b);
        });
      }
    });
  }
};

// x's coefficient is x_along[i] * x_across[row], y's likewise.
template <class Acc>
struct Coefficients {
  const Acc *x_along, *y_along, *x_across, *y_across;
  int64_t length, rows;

  Coefficients(bool planar, const Gate<Acc>& a, int64_t pixels, const Gate<Acc>& b, int64_t channels)
      : x_along(planar ? a.open.data() : b.shut.data()),
        y_along(planar ? a.shut.data() : b.open.data()),
        x_across(planar ? b.shut.data() : a.open.data()),
        y_across(planar ? b.open.data() : a.shut.data()),
        length(planar ? pixels : channels),
        rows(planar ? channels : pixels) {}
};

template <class T>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel, Tensor& out) {
  using Acc = acc_t<T>;
  const Tiles<T> tiles(shallow, spatial, channel, FORWARD_TILE);
  const auto x = as_map<const T>(shallow, "shallow"), y = as_map<const T>(deep, "deep");
  const auto o = as_map<T>(out, "out");
  back_with_huge_pages(out);
  tiles.for_each([&](int64_t, int64_t n, int64_t first, int64_t count, const Gate<Acc>& a, const Gate<Acc>& b) {
    const Coefficients<Acc> k(tiles.planar, a, count, b, tiles.channels);
    for (int64_t r = 0; r < k.rows; ++r) {
      const int64_t c = tiles.planar ? r : 0, p = tiles.planar ? first : first + r;
      const T *xr = x.at(n, c, p), *yr = y.at(n, c, p);
      T* __restrict row = o.at(n, c, p);
      const Acc x_across = k.x_across[r], y_across = k.y_across[r];
      for (int64_t i = 0; i < k.length; ++i)
        row[i] = static_cast<T>(k.x_along[i] * x_across * static_cast<Acc>(xr[i]) +
                                k.y_along[i] * y_across * static_cast<Acc>(yr[i]));
    }
  });
}

template <class T>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& spatial,
              const Tensor& channel, const std::optional<Tensor>& grad_shallow, const std::optional<Tensor>& grad_deep,
              const std::optional<Tensor>& grad_spatial, const std::optional<Tensor>& grad_channel) {
  using Acc = acc_t<T>;
  const Tiles<T> tiles(shallow, spatial, channel, BACKWARD_TILE);
  const int64_t channels = tiles.channels;
  const auto g = as_map<const T>(grad, "grad");
  const auto x = as_map<const T>(shallow, "shallow"), y = as_map<const T>(deep, "deep");
  const auto dx = as_map<T>(grad_shallow, "grad_shallow"), dy = as_map<T>(grad_deep, "grad_deep");
  if (grad_shallow) back_with_huge_pages(*grad_shallow);
  if (grad_deep) back_with_huge_pages(*grad_deep);
  // dq of a tile, and the sums of a tile along a row and across the rows.
  std::vector<Acc> channel_sums(grad_channel ? tiles.batch * tiles.per_image * channels : 0);
  const bool sum_along = tiles.planar ? grad_channel.has_value() : grad_spatial.has_value();
  const bool sum_across = tiles.planar ? grad_spatial.has_value() : grad_channel.has_value();

  tiles.for_each([&](int64_t unit, int64_t n, int64_t first, int64_t count, const Gate<Acc>& a, const Gate<Acc>& b) {
    const Coefficients<Acc> k(tiles.planar, a, count, b, channels);
    std::vector<Acc> along(k.rows), across(k.length);
    for (int64_t r = 0; r < k.rows; ++r) {
      const int64_t c = tiles.planar ? r : 0, p = tiles.planar ? first : first + r;
      const T *gr = g.at(n, c, p), *xr = x.at(n, c, p), *yr = y.at(n, c, p);
      const Acc x_across = k.x_across[r], y_across = k.y_across[r];
      if (dx.data) {
        T* __restrict row = dx.at(n, c, p);
        for (int64_t i = 0; i < k.length; ++i)
          row[i] = static_cast<T>(k.x_along[i] * x_across * static_cast<Acc>(gr[i]));
      }
      if (dy.data) {
        T* __restrict row = dy.at(n, c, p);
        for (int64_t i = 0; i < k.length; ++i)
          row[i] = static_cast<T>(k.y_along[i] * y_across * static_cast<Acc>(gr[i]));
      }
      if (sum_across) {
        Acc* __restrict sums = across.data();
        for (int64_t i = 0; i < k.length; ++i)
          sums[i] +=
              (x_across * static_cast<Acc>(xr[i]) - y_across * static_cast<Acc>(yr[i])) * static_cast<Acc>(gr[i]);
      }
      if (sum_along) {
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < k.length; ++i)
          sum += (k.x_along[i] * static_cast<Acc>(xr[i]) - k.y_along[i] * static_cast<Acc>(yr[i])) *
                 static_cast<Acc>(gr[i]);
        along[r] = sum;
      }
    }
    // sum over C of [(1-b) x - b y] g is the sum with the coefficients of the channels; that over P has the other sign.
    if (grad_spatial) {
      Acc* sums = tiles.planar ? across.data() : along.data();
      for (int64_t i = 0; i < count; ++i) sums[i] *= a.open[i] * a.shut[i];
      AnyMap(*grad_spatial, "grad_spatial").write_pixels(n, 0, first, count, sums);
    }
    if (grad_channel) {
      const Acc* sums = tiles.planar ? along.data() : across.data();
      for (int64_t c = 0; c < channels; ++c) channel_sums[unit * channels + c] = -sums[c] * b.open[c] * b.shut[c];
    }
  });

  if (grad_channel) {
    const AnyMap dq(*grad_channel, "grad_channel");
    std::vector<double> total(channels);
    for (int64_t n = 0; n < tiles.batch; ++n) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t tile = n * tiles.per_image; tile < (n + 1) * tiles.per_image; ++tile)
        for (int64_t c = 0; c < channels; ++c) total[c] += channel_sums[tile * channels + c];
      dq.write_channels(n, channels, total.data());
    }
  }
}

void attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial, Tensor channel, Tensor out) {
  dispatch(shallow.scalar_type(), "attentive_fusion",
           [&](auto t) { forward<decltype(t)>(shallow, deep, spatial, channel, out); });
}

void attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial, Tensor channel,
                               std::optional<Tensor> grad_shallow, std::optional<Tensor> grad_deep,
                               std::optional<Tensor> grad_spatial, std::optional<Tensor> grad_channel) {
  dispatch(shallow.scalar_type(), "attentive_fusion", [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, spatial, channel, grad_shallow, grad_deep, grad_spatial, grad_channel);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("attentive_fusion_forward", TORCH_BOX(&afa::attentive_fusion_forward));
  m.impl("attentive_fusion_backward", TORCH_BOX(&afa::attentive_fusion_backward));
}
