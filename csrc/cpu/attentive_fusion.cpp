// attentive_fusion on the CPU: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel).
//
// A row is what is contiguous in memory: one channel's pixels (NCHW) or one pixel's channels (channels_last). Every
// coefficient is a product of a value along the row and a value across the rows, so one loop serves both layouts.
#include <algorithm>

#include "gate.h"

namespace afa {
namespace {

constexpr int64_t TILE = 4096;  // elements of a row, or pixels, that are worked on at a time

// x's coefficient is x_along[i] * x_across[row], y's likewise.
template <class Acc>
struct Coefficients {
  const Acc *x_along, *y_along, *x_across, *y_across;
};

// The sizes of the features, and the gates a of all pixels and b of all channels.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  int64_t batch, channels, pixels;
  bool planar;
  Gate<Acc> a, b;

  Fusion(const Tensor& feature, const Tensor& spatial_logits, const Tensor& channel_logits)
      : batch(feature.size(0)),
        channels(feature.size(1)),
        pixels(feature.size(2) * feature.size(3)),
        planar(as_map<T>(feature, "feature").sp == 1),
        a(batch * pixels),
        b(batch * channels) {
    const AnyMap spatial(spatial_logits, "spatial_logits"), channel(channel_logits, "channel_logits");
    const int64_t tiles = ceil_div(pixels, TILE);
    torch::stable::parallel_for(0, batch * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / tiles, first = unit % tiles * TILE, count = std::min(TILE, pixels - first);
        spatial.read_pixels(n, 0, first, count, &a.open[n * pixels + first]);
        a.activate(n * pixels + first, count);
      }
    });
    for (int64_t n = 0; n < batch; ++n) channel.read_channels(n, 0, channels, &b.open[n * channels]);
    b.activate(0, batch * channels);
  }

  // From pixel `first` of image n on.
  Coefficients<Acc> coefficients(int64_t n, int64_t first) const {
    const int64_t p = n * pixels + first, c = n * channels;
    if (planar) return {&a.open[p], &a.shut[p], &b.shut[c], &b.open[c]};
    return {&b.shut[c], &b.open[c], &a.open[p], &a.shut[p]};
  }
};

// Walks the features in the order of their memory: a page of a fresh output is written while it is still in the cache.
template <class T>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel, Tensor& out) {
  using Acc = acc_t<T>;
  const Fusion<T> fusion(shallow, spatial, channel);
  const auto x = as_map<const T>(shallow, "shallow"), y = as_map<const T>(deep, "deep");
  const auto o = as_map<T>(out, "out");
  back_with_huge_pages(out);
  const int64_t rows = fusion.planar ? fusion.channels : fusion.pixels;
  const int64_t length = fusion.planar ? fusion.pixels : fusion.channels;
  const int64_t tiles = ceil_div(length, TILE);
  torch::stable::parallel_for(0, fusion.batch * rows * tiles, ceil_div(TILE, length), [&](int64_t begin, int64_t end) {
    vectorized([&] {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / (rows * tiles), r = unit / tiles % rows, first = unit % tiles * TILE;
        const int64_t count = std::min(TILE, length - first);
        const int64_t c = fusion.planar ? r : first, p = fusion.planar ? first : r;
        const Coefficients<Acc> k = fusion.coefficients(n, 0);
        const Acc x_across = k.x_across[r], y_across = k.y_across[r];
        const Acc *x_along = k.x_along + first, *y_along = k.y_along + first;
        const T *xr = x.at(n, c, p), *yr = y.at(n, c, p);
        T* __restrict row = o.at(n, c, p);
        for (int64_t i = 0; i < count; ++i)
          row[i] = static_cast<T>(x_along[i] * x_across * static_cast<Acc>(xr[i]) +
                                  y_along[i] * y_across * static_cast<Acc>(yr[i]));
      }
    });
  });
}

// Walks tiles of pixels with all their channels, row by row: the sums over the channels stay in the cache. Tiles do not
// depend on the number of threads, hence neither does any sum.
template <class T>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& spatial,
              const Tensor& channel, const std::optional<Tensor>& grad_shallow, const std::optional<Tensor>& grad_deep,
              const std::optional<Tensor>& grad_spatial, const std::optional<Tensor>& grad_channel) {
  using Acc = acc_t<T>;
  const Fusion<T> fusion(shallow, spatial, channel);
  // Sums over pixels run in the lanes of a planar row, else one by one: shorter, or they lose float32's last digits.
  const int64_t tile = fusion.planar ? TILE : TILE / 8;
  const int64_t channels = fusion.channels, tiles = ceil_div(fusion.pixels, tile);
  const auto g = as_map<const T>(grad, "grad");
  const auto x = as_map<const T>(shallow, "shallow"), y = as_map<const T>(deep, "deep");
  const auto dx = as_map<T>(grad_shallow, "grad_shallow"), dy = as_map<T>(grad_deep, "grad_deep");
  if (grad_shallow) back_with_huge_pages(*grad_shallow);
  if (grad_deep) back_with_huge_pages(*grad_deep);
  std::vector<Acc> channel_sums(grad_channel ? fusion.batch * tiles * channels : 0);

  torch::stable::parallel_for(0, fusion.batch * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / tiles, first = unit % tiles * tile, count = std::min(tile, fusion.pixels - first);
      const int64_t rows = fusion.planar ? channels : count, length = fusion.planar ? count : channels;
      const Coefficients<Acc> k = fusion.coefficients(n, first);
      std::vector<Acc> along(rows), across(length);
      std::vector<Acc> buffers(5 * length);
      vectorized([&] {
        const int64_t steps = length;  // locals, or the compiler must fear that a store changes them
        const Acc *x_along = k.x_along, *y_along = k.y_along;
        Acc *sums = across.data(), *buffer = buffers.data();
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t c = fusion.planar ? r : 0, p = fusion.planar ? first : first + r;
          const Acc* gr = widened(g.at(n, c, p), steps, buffer);
          const Acc* xr = widened(x.at(n, c, p), steps, buffer + steps);
          const Acc* yr = widened(y.at(n, c, p), steps, buffer + 2 * steps);
          T *dx_row = dx.data ? dx.at(n, c, p) : nullptr, *dy_row = dy.data ? dy.at(n, c, p) : nullptr;
          Acc *dxr = computed_in(dx_row, buffer + 3 * steps), *dyr = computed_in(dy_row, buffer + 4 * steps);
          const Acc x_across = k.x_across[r], y_across = k.y_across[r];
          Acc sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < steps; ++i) {
            const Acc gx = xr[i] * gr[i], gy = yr[i] * gr[i];
            dxr[i] = x_along[i] * x_across * gr[i];
            dyr[i] = y_along[i] * y_across * gr[i];
            sums[i] += x_across * gx - y_across * gy;
            sum += x_along[i] * gx - y_along[i] * gy;
          }
          store(dxr, steps, dx_row);
          store(dyr, steps, dy_row);
          along[r] = sum;
        }
      });
      // sum over C of [(1-b) x - b y] g is the sum with the coefficients of the channels; over P, the sign is reversed.
      if (grad_spatial) {
        Acc* sums = fusion.planar ? across.data() : along.data();
        const Acc *open = &fusion.a.open[n * fusion.pixels + first], *shut = &fusion.a.shut[n * fusion.pixels + first];
        for (int64_t i = 0; i < count; ++i) sums[i] *= open[i] * shut[i];
        AnyMap(*grad_spatial, "grad_spatial").write_pixels(n, 0, first, count, sums);
      }
      if (grad_channel) {
        const std::vector<Acc>& sums = fusion.planar ? along : across;
        std::copy(sums.begin(), sums.end(), &channel_sums[unit * channels]);
      }
    }
  });

  if (grad_channel) {
    const AnyMap dq(*grad_channel, "grad_channel");
    std::vector<double> total(channels);
    for (int64_t n = 0; n < fusion.batch; ++n) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t unit = n * tiles; unit < (n + 1) * tiles; ++unit)
        for (int64_t c = 0; c < channels; ++c) total[c] += channel_sums[unit * channels + c];
      const Acc *open = &fusion.b.open[n * channels], *shut = &fusion.b.shut[n * channels];
      for (int64_t c = 0; c < channels; ++c) total[c] *= -static_cast<double>(open[c]) * shut[c];
      dq.write_channels(n, 0, channels, total.data());
    }
  }
}

void attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial, Tensor channel, Tensor out) {
  dispatch(shallow.scalar_type(), "attentive_fusion",
           [&](auto t) { forward<decltype(t)>(shallow, deep, spatial, channel, out); });
}

void attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial, Tensor channel,
                               std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients of = spread("attentive_fusion", grads, needed, 4);
  dispatch(shallow.scalar_type(), "attentive_fusion",
           [&](auto t) { backward<decltype(t)>(grad, shallow, deep, spatial, channel, of[0], of[1], of[2], of[3]); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("attentive_fusion_forward", TORCH_BOX(&afa::attentive_fusion_forward));
  m.impl("attentive_fusion_backward", TORCH_BOX(&afa::attentive_fusion_backward));
}
