// upsampled_pool on the CPU: the mean and the first maximum of every channel of a map that is upsampled first.
//
// Backward the mean needs no upsampled map: its gradient is the same for all outputs.
#include "pool.h"
#include "upsampling.h"

namespace afa {
namespace {

constexpr Checker check{"upsampled_pool"};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& deep, const Tensor& weight, const Tensor& avg, const Tensor& max, const Tensor& index) {
  check.pixels("deep", deep);
  const Layout layout(deep);
  const Upsampling<Acc> up(check, weight, deep);
  const int64_t batch = layout.batch, channels = layout.channels, width = up.width(), pixels = up.height() * width;
  const auto map = check.map<const T>("deep", deep, layout);
  const Pooled<T> pooled(check, avg, max, index, batch, channels);
  const int64_t size = layout.channels_last ? CHANNELS_LAST_TILE : ceil_div(TILE, width) * width;
  const Partial<Acc> partial(batch, pixels, size, channels);
  if (layout.channels_last) {
    const int64_t scratch = UNROLL * channels + UpsampledPixels<T>::scratch(up);
    for_each_tile<Acc>(batch, pixels, size, scratch, [&](const Piece& tile, Acc* buffer) {
      UpsampledPixels<T> upsampled(up, map, tile.n, buffer + UNROLL * channels);
      const Map<const Acc> values{buffer, 0, 1, channels};
      const auto of_tile = partial.of_tile(tile.unit);
      of_tile.clear();
      for (int64_t first = 0; first < tile.count; first += UNROLL) {
        const int64_t count = std::min(UNROLL, tile.count - first);
        for (int64_t k = 0; k < count; ++k) {
          const int64_t p = tile.first + first + k;
          upsampled.pixel(p / width, p % width).store(channels, buffer + k * channels);
        }
        of_tile.add(values, 0, 0, count, first, static_cast<Acc*>(nullptr));
      }
    });
  } else {
    const int64_t grain = ceil_div(TILE, pixels), scratch = size + UpsampledRows<T>::scratch(up);
    for_each_piece<Acc>(batch, channels, pixels, size, grain, scratch, [&](const Piece& piece, Acc* buffer) {
      UpsampledRows<T> upsampled(up, map, buffer + size);
      upsampled.start(piece.n, piece.row);
      for (int64_t at = 0; at < piece.count; at += width) upsampled.row((piece.first + at) / width, buffer + at);
      partial.reduce_row(piece, buffer);
      partial.locate(piece, buffer);
    });
  }
  pooled.store(partial);
}

// The gradient of every output, and what a channel's maximum gets further: (N, C).
template <class T>
struct Upstream {
  using Acc = acc_t<T>;
  std::vector<Acc> of_all, of_maximum;  // empty where there is none

  Upstream(const T* of_avg, const T* of_max, int64_t count, int64_t pixels) {
    for (int64_t i = 0; of_avg && i < count; ++i)
      of_all.push_back(static_cast<Acc>(of_avg[i]) / static_cast<Acc>(pixels));
    for (int64_t i = 0; of_max && i < count; ++i) of_maximum.push_back(static_cast<Acc>(of_max[i]));
  }
};

// What an input gets of all outputs: the sum over the taps inside the map, which are others for the first and the last
// input along an axis than for those between.
template <class Acc>
class Shares {
 public:
  Shares(const Upsampling<Acc>& up, int64_t batch, const std::vector<Acc>& of_all)
      : up_(up), sums_(batch * 9 * up.channels) {
    if (of_all.empty()) return;
    for (int64_t n = 0; n < batch; ++n)
      for (const int64_t i : kinds(up.rows))
        for (const int64_t j : kinds(up.columns)) add(&of_all[n * up.channels], i, j, &sums_[place(n, i, j)]);
  }

  // Of the channels of input (i, j).
  const Acc* at(int64_t n, int64_t i, int64_t j) const { return &sums_[place(n, i, j)]; }

 private:
  // One of each kind, some twice.
  static std::array<int64_t, 3> kinds(const UpsampledAxis& axis) {
    return {0, std::min<int64_t>(1, axis.size - 1), axis.size - 1};
  }
  static int64_t kind(const UpsampledAxis& axis, int64_t i) { return i == 0 ? 0 : i < axis.size - 1 ? 1 : 2; }
  int64_t place(int64_t n, int64_t i, int64_t j) const {
    return (9 * n + 3 * kind(up_.rows, i) + kind(up_.columns, j)) * up_.channels;
  }

  void add(const Acc* of_all, int64_t i, int64_t j, Acc* sums) const {
    std::fill_n(sums, up_.channels, Acc(0));
    for (int64_t tap = 0; tap < up_.taps; ++tap) {
      if (!up_.rows.reaches(i, tap / up_.taps_of_row()) || !up_.columns.reaches(j, tap % up_.taps_of_row())) continue;
      for (int64_t c = 0; c < up_.channels; ++c) sums[c] += of_all[c] * up_.tap(tap)[c];
    }
  }

  const Upsampling<Acc>& up_;
  std::vector<Acc> sums_;
};

// Calls body(i, n, c, p) for every channel i = n C + c of a batch, whose maximum is output p.
template <class F>
void for_each_maximum(const Layout& layout, const int64_t* indices, const F& body) {
  for (int64_t i = 0; i < layout.batch * layout.channels; ++i)
    body(i, i / layout.channels, i % layout.channels, indices[i]);
}

template <class T, class Acc = acc_t<T>>
void backward_deep(const Layout& layout, const Upsampling<Acc>& up, const Upstream<T>& upstream, const int64_t* indices,
                   const Map<T>& d_deep) {
  const int64_t channels = layout.channels, width = layout.width;
  const Shares<Acc> shares(up, layout.batch, upstream.of_all);
  if (layout.channels_last) {
    for_each_tile<Acc>(layout.batch, layout.pixels, CHANNELS_LAST_TILE, 0, [&](const Piece& tile, Acc*) {
      for (int64_t p = tile.first; p < tile.first + tile.count; ++p) {
        const Acc* share = shares.at(tile.n, p / width, p % width);
        fill_row<Acc>(d_deep.at(tile.n, 0, p), channels, false, [&](int64_t c) { return share[c]; });
      }
    });
  } else {
    const int64_t grain = ceil_div(TILE, std::max<int64_t>(1, width));
    for_each_piece<Acc>(layout.batch, channels, layout.height, 1, grain, 0, [&](const Piece& row, Acc*) {
      const auto share = [&](int64_t j) { return static_cast<T>(shares.at(row.n, row.first, j)[row.row]); };
      T* values = d_deep.at(row.n, row.row, row.first * width);
      if (width > 2) std::fill_n(values + 1, width - 2, share(1));
      values[0] = share(0);
      values[width - 1] = share(width - 1);
    });
  }
  if (upstream.of_maximum.empty()) return;
  for_each_maximum(layout, indices, [&](int64_t at, int64_t n, int64_t c, int64_t p) {
    up.for_each_input(p / up.width(), p % up.width(), [&](int, int64_t i, int64_t j, int64_t tap) {
      const Acc value = shares.at(n, i, j)[c] + upstream.of_maximum[at] * up.tap(tap)[c];
      *d_deep.at(n, c, i * width + j) = static_cast<T>(value);
    });
  });
}

// Along an axis a tap reaches all inputs but the first, or all, or all but the last.
constexpr int64_t REGIONS = 3;

inline int64_t region(int64_t tap, int64_t factor) {
  return tap < factor / 2 ? 0 : tap < 3 * factor / 2 ? 1 : 2;
}

// The inputs times the gradient of all outputs, summed over a row and each of its regions: (N, H, REGIONS, C).
template <class T, class Acc = acc_t<T>>
std::vector<Acc> sum_rows(const Layout& layout, const Map<const T>& deep, const std::vector<Acc>& of_all) {
  const int64_t channels = layout.channels, height = layout.height, width = layout.width;
  std::vector<Acc> sums(layout.batch * height * REGIONS * channels);
  const auto store = [&](int64_t n, int64_t i, int64_t c, Acc first, Acc middle, Acc last) {
    const Acc g = of_all[n * channels + c];
    Acc* of_row = &sums[(n * height + i) * REGIONS * channels + c];
    of_row[0] = width > 1 ? middle + g * last : 0;
    of_row[channels] = width > 1 ? g * first + middle + g * last : g * first;
    of_row[2 * channels] = width > 1 ? g * first + middle : 0;
  };
  if (layout.channels_last) {
    for_each_piece<Acc>(layout.batch, 1, height, 1, 1, (3 + UNROLL) * channels, [&](const Piece& row, Acc* buffer) {
      Acc *middle = buffer + UNROLL * channels, *ends = middle + channels;
      const Acc* g = &of_all[row.n * channels];
      const int64_t first = row.first * width, last = first + width - 1;
      std::fill_n(middle, channels, Acc(0));
      for_each_pixels(deep, row.n, first + 1, width - 2, channels, buffer, [&](const auto& pixels, int64_t) {
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c)
          middle[c] += pixels.sum(c, [&](Acc value, int64_t) { return g[c] * value; });
      });
      const Acc* at_first = widened(deep.at(row.n, 0, first), channels, ends);
      const Acc* at_last = widened(deep.at(row.n, 0, last), channels, ends + channels);
      for (int64_t c = 0; c < channels; ++c) store(row.n, row.first, c, at_first[c], middle[c], at_last[c]);
    });
  } else {
    const int64_t grain = ceil_div(TILE, std::max<int64_t>(1, width));
    for_each_piece<Acc>(layout.batch, channels, height, 1, grain, width, [&](const Piece& row, Acc* buffer) {
      const Acc* values = widened(deep.at(row.n, row.row, row.first * width), width, buffer);
      const Acc g = of_all[row.n * channels + row.row];
      Acc middle = 0;
#pragma omp simd reduction(+ : middle)
      for (int64_t j = 1; j < width - 1; ++j) middle += g * values[j];
      store(row.n, row.first, row.row, values[0], middle, values[width - 1]);
    });
  }
  return sums;
}

template <class T, class Acc = acc_t<T>>
std::vector<double> backward_weight(const Layout& layout, const Upsampling<Acc>& up, const Upstream<T>& upstream,
                                    const int64_t* indices, const Map<const T>& deep) {
  const int64_t channels = layout.channels, height = layout.height, of_row = REGIONS * channels;
  std::vector<double> total(up.taps * channels);
  if (!upstream.of_all.empty()) {
    const std::vector<Acc> sums = sum_rows(layout, deep, upstream.of_all);
    std::vector<double> regions(REGIONS * of_row);
    for (int64_t row = 0; row < layout.batch * height; ++row) {
      const int64_t i = row % height;
      for (int64_t r = i > 0 ? 0 : 1; r < (i < height - 1 ? 3 : 2); ++r)
        for (int64_t k = 0; k < of_row; ++k) regions[r * of_row + k] += sums[row * of_row + k];
    }
    for (int64_t tap = 0; tap < up.taps; ++tap) {
      const int64_t r = region(tap / up.taps_of_row(), up.factor), k = region(tap % up.taps_of_row(), up.factor);
      std::copy_n(&regions[r * of_row + k * channels], channels, &total[tap * channels]);
    }
  }
  if (!upstream.of_maximum.empty()) {
    for_each_maximum(layout, indices, [&](int64_t at, int64_t n, int64_t c, int64_t p) {
      up.for_each_input(p / up.width(), p % up.width(), [&](int, int64_t i, int64_t j, int64_t tap) {
        const Acc input = static_cast<Acc>(*deep.at(n, c, i * layout.width + j));
        total[tap * channels + c] += static_cast<double>(upstream.of_maximum[at]) * input;
      });
    });
  }
  return total;
}

template <class T, class Acc = acc_t<T>>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& deep,
              const Tensor& weight, const Tensor& index, const Gradients& grads) {
  check.pixels("deep", deep);
  const Layout layout(deep);
  const Upsampling<Acc> up(check, weight, deep);
  const int64_t count = layout.batch * layout.channels, pixels = up.height() * up.width();
  const auto y = check.map<const T>("deep", deep, layout);
  const auto dy = check.map<T>("grad of deep", grads[0], layout);
  const int64_t* indices = indices_of(check, index, count, pixels);
  const T* of_avg = check.flat<const T>("grad_avg", grad_avg, count);
  const T* of_max = check.flat<const T>("grad_max", grad_max, count);
  const Upstream<T> upstream(of_avg, of_max, count, pixels);
  if (grads[0]) {
    back_with_huge_pages(*grads[0]);
    backward_deep(layout, up, upstream, indices, dy);
  }
  if (grads[1]) store_weight(check, up, backward_weight(layout, up, upstream, indices, y), *grads[1]);
}

void upsampled_pool_forward(Tensor deep, Tensor weight, Tensor avg, Tensor max, Tensor index) {
  dispatch(deep.scalar_type(), check.op, [&](auto t) { forward<decltype(t)>(deep, weight, avg, max, index); });
}

void upsampled_pool_backward(std::optional<Tensor> grad_avg, std::optional<Tensor> grad_max, Tensor deep, Tensor weight,
                             Tensor index, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(deep.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad_avg, grad_max, deep, weight, index, check.spread(grads, needed, 2));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("upsampled_pool_forward", TORCH_BOX(&afa::upsampled_pool_forward));
  m.impl("upsampled_pool_backward", TORCH_BOX(&afa::upsampled_pool_backward));
}
