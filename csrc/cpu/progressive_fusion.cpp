// progressive_fusion on the CPU: out = sum_k A_k B_k F_k with A_k = a_k prod_{j>k} (1-a_j) at every pixel and
// B_k = b_k prod_{j>k} (1-b_j) at every channel, a_k and b_k the sigmoids of the logits.
//
// A row is what is contiguous in memory, as in attentive_fusion.cpp: the weight of an element is a value along the row
// times a value across the rows.
#include <algorithm>

#include "gate.h"

namespace afa {
namespace {

constexpr int64_t TILE = 2048;  // elements of a row, or pixels, that are worked on at a time

enum class Axis { pixels, channels };

// A of the pixels or B of the channels, for every image and input a row of `size` values.
template <class Acc>
class Factor {
 public:
  // logits: K of (N, 1, H, W), or K of (N, C, 1, 1).
  Factor(const std::vector<Tensor>& logits, Axis axis, const char* name)
      : size(axis == Axis::pixels ? logits[0].size(2) * logits[0].size(3) : logits[0].size(1)),
        axis_(axis),
        inputs_(logits.size()),
        gate_(logits[0].size(0) * inputs_ * size),
        weight_(new Acc[logits[0].size(0) * inputs_ * size]) {
    std::vector<AnyMap> maps;
    for (const Tensor& t : logits) maps.emplace_back(t, name);
    const int64_t tiles = ceil_div(size, TILE);
    torch::stable::parallel_for(0, logits[0].size(0) * tiles, 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> left(TILE);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / tiles, first = unit % tiles * TILE, count = std::min(TILE, size - first);
        std::fill(left.begin(), left.end(), Acc(1));
        for (int64_t k = inputs_ - 1; k >= 0; --k) {
          const int64_t at = (n * inputs_ + k) * size + first;
          if (axis_ == Axis::pixels)
            maps[k].read_pixels(n, 0, first, count, &gate_.open[at]);
          else
            maps[k].read_channels(n, first, count, &gate_.open[at]);
          gate_.activate(at, count);
          for (int64_t i = 0; i < count; ++i) {
            weight_[at + i] = gate_.open[at + i] * left[i];
            left[i] *= gate_.shut[at + i];
          }
        }
      }
    });
  }

  const Acc* weights(int64_t n, int64_t k) const { return &weight_[(n * inputs_ + k) * size]; }

  // From the gradients that reach the weights, sums[k * stride + i], those of the logits: with S_k = A_k dA_k it is
  // (1-a_k) S_k - a_k sum_{j<k} S_j, in which nothing is divided.
  template <class Sum>
  void write_gradients(int64_t n, int64_t first, int64_t count, Sum* sums, int64_t stride,
                       const Gradients& grads) const {
    std::vector<Sum> before(count);
    for (int64_t k = 0; k < inputs_; ++k) {
      const int64_t at = (n * inputs_ + k) * size + first;
      const bool needed = grads[k].has_value();
      Sum* row = sums + k * stride;
      for (int64_t i = 0; i < count; ++i) {
        const Sum sum = weight_[at + i] * row[i];
        if (needed) row[i] = gate_.shut[at + i] * sum - gate_.open[at + i] * before[i];
        before[i] += sum;
      }
      if (!needed) continue;
      const AnyMap grad(*grads[k], "gradient of logits");
      if (axis_ == Axis::pixels)
        grad.write_pixels(n, 0, first, count, row);
      else
        grad.write_channels(n, first, count, row);
    }
  }

  const int64_t size;

 private:
  Axis axis_;
  int64_t inputs_;
  Gate<Acc> gate_;
  std::unique_ptr<Acc[]> weight_;
};

template <class T>
std::vector<Map<T>> as_maps(const std::vector<Tensor>& tensors, const char* name) {
  std::vector<Map<T>> maps;
  for (const Tensor& t : tensors) maps.push_back(as_map<T>(t, name));
  return maps;
}

template <class T>
void forward(const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
             const std::vector<Tensor>& channel, Tensor& out) {
  using Acc = acc_t<T>;
  const Factor<Acc> a(spatial, Axis::pixels, "spatial_logits"), b(channel, Axis::channels, "channel_logits");
  const auto maps = as_maps<const T>(features, "features");
  const auto o = as_map<T>(out, "out");
  back_with_huge_pages(out);
  const bool planar = o.sp == 1;
  const Factor<Acc>&along = planar ? a : b, &across = planar ? b : a;
  const int64_t batch = out.size(0), rows = across.size, length = along.size, tiles = ceil_div(length, TILE);
  torch::stable::parallel_for(0, batch * rows * tiles, ceil_div(TILE, length), [&](int64_t begin, int64_t end) {
    std::vector<Acc> buffers(2 * TILE);
    vectorized([&] {
      Acc* buffer = buffers.data();
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / (rows * tiles), r = unit / tiles % rows, first = unit % tiles * TILE;
        const int64_t count = std::min(TILE, length - first);
        const int64_t c = planar ? r : first, p = planar ? first : r;
        T* row = o.at(n, c, p);
        Acc* sums = computed_in(row, buffer);
        for (size_t k = 0; k < maps.size(); ++k) {
          const Acc* x = widened(maps[k].at(n, c, p), count, buffer + TILE);
          const Acc* weights = along.weights(n, k) + first;
          const Acc weight = across.weights(n, k)[r];
          if (k == 0)
            for (int64_t i = 0; i < count; ++i) sums[i] = weights[i] * weight * x[i];
          else
            for (int64_t i = 0; i < count; ++i) sums[i] += weights[i] * weight * x[i];
        }
        store(sums, count, row);
      }
    });
  });
}

// Walks tiles of pixels with all their channels, row by row: the sums over the channels stay in the cache. Tiles do not
// depend on the number of threads, hence neither does any sum.
template <class T>
void backward(const Tensor& grad, const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
              const std::vector<Tensor>& channel, const Gradients& grad_features, const Gradients& grad_spatial,
              const Gradients& grad_channel) {
  using Acc = acc_t<T>;
  const Factor<Acc> a(spatial, Axis::pixels, "spatial_logits"), b(channel, Axis::channels, "channel_logits");
  const auto g = as_map<const T>(grad, "grad");
  const auto maps = as_maps<const T>(features, "features");
  std::vector<Map<T>> grad_maps;
  for (const std::optional<Tensor>& t : grad_features) {
    if (t) back_with_huge_pages(*t);
    grad_maps.push_back(as_map<T>(t, "grad_features"));
  }
  const bool planar = g.sp == 1;
  const Factor<Acc>&along = planar ? a : b, &across = planar ? b : a;
  const int64_t batch = grad.size(0), channels = b.size, pixels = a.size, inputs = features.size();
  // Sums over pixels run in the lanes of a planar row, else one by one: shorter, or they lose float32's last digits.
  const int64_t tile = planar ? TILE : TILE / 4, tiles = ceil_div(pixels, tile);
  const bool spatial_needed = any(grad_spatial), channel_needed = any(grad_channel);
  std::vector<Acc> channel_sums(channel_needed ? batch * tiles * inputs * channels : 0);

  torch::stable::parallel_for(0, batch * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / tiles, first = unit % tiles * tile, count = std::min(tile, pixels - first);
      const int64_t rows = planar ? channels : count, length = planar ? count : channels;
      const int64_t first_along = planar ? first : 0, first_across = planar ? 0 : first;
      std::vector<Acc> sums_along(inputs * rows), sums_across(inputs * length), buffers(3 * length);
      vectorized([&] {
        const int64_t steps = length;  // locals, or the compiler must fear that a store changes them
        Acc* buffer = buffers.data();
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t c = planar ? r : 0, p = planar ? first : first + r;
          const Acc* gr = widened(g.at(n, c, p), steps, buffer);
          for (int64_t k = 0; k < inputs; ++k) {
            const Acc* x = widened(maps[k].at(n, c, p), steps, buffer + steps);
            T* dx_row = grad_maps[k].data ? grad_maps[k].at(n, c, p) : nullptr;
            Acc *dx = computed_in(dx_row, buffer + 2 * steps), *sums = &sums_across[k * steps];
            const Acc* weights = along.weights(n, k) + first_along;
            const Acc weight = across.weights(n, k)[first_across + r];
            Acc sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < steps; ++i) {
              const Acc gx = gr[i] * x[i];
              dx[i] = weights[i] * weight * gr[i];
              sums[i] += weight * gx;
              sum += weights[i] * gx;
            }
            store(dx, steps, dx_row);
            sums_along[k * rows + r] = sum;
          }
        }
      });
      std::vector<Acc>&of_pixels = planar ? sums_across : sums_along, &of_channels = planar ? sums_along : sums_across;
      if (spatial_needed) a.write_gradients(n, first, count, of_pixels.data(), count, grad_spatial);
      if (channel_needed) std::copy(of_channels.begin(), of_channels.end(), &channel_sums[unit * inputs * channels]);
    }
  });

  if (channel_needed) {
    for (int64_t n = 0; n < batch; ++n) {
      std::vector<double> total(inputs * channels);
      for (int64_t unit = n * tiles; unit < (n + 1) * tiles; ++unit)
        for (int64_t i = 0; i < inputs * channels; ++i) total[i] += channel_sums[unit * inputs * channels + i];
      b.write_gradients(n, 0, channels, total.data(), channels, grad_channel);
    }
  }
}

void progressive_fusion_forward(std::vector<Tensor> features, std::vector<Tensor> spatial, std::vector<Tensor> channel,
                                Tensor out) {
  dispatch(out.scalar_type(), "progressive_fusion",
           [&](auto t) { forward<decltype(t)>(features, spatial, channel, out); });
}

// `grads` are those `needed` of the features, the spatial and the channel logits.
void progressive_fusion_backward(Tensor grad, std::vector<Tensor> features, std::vector<Tensor> spatial,
                                 std::vector<Tensor> channel, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = spread("progressive_fusion", grads, needed, 3 * features.size());
  Gradients of[3];
  for (size_t i = 0; i < all.size(); ++i) of[i / features.size()].push_back(all[i]);
  dispatch(grad.scalar_type(), "progressive_fusion",
           [&](auto t) { backward<decltype(t)>(grad, features, spatial, channel, of[0], of[1], of[2]); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("progressive_fusion_forward", TORCH_BOX(&afa::progressive_fusion_forward));
  m.impl("progressive_fusion_backward", TORCH_BOX(&afa::progressive_fusion_backward));
}
