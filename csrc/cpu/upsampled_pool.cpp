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
          const auto pixel = upsampled.pixel(p / width, p % width);
          Acc* __restrict row = buffer + k * channels;
          for (int64_t c = 0; c < channels; ++c) row[c] = pixel[c];
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
    });
  }
  pooled.store(partial);
}

// The sum of the weights whose taps are inside the map, by which an input takes part in the sum of all outputs, along an
// axis the first, those in the middle and the last of them; or zeros.
template <class Acc>
class Shares {
 public:
  Shares(const Upsampling<Acc>& up, bool of_mean) : up_(up), sums_(9 * up.channels) {
    for (int64_t i : {int64_t(0), int64_t(1), up.rows.size - 1})
      for (int64_t j : {int64_t(0), int64_t(1), up.columns.size - 1})
        if (of_mean && up.rows.has(i) && up.columns.has(j)) add(i, j);
  }

  // Of the channels of input (i, j).
  const Acc* at(int64_t i, int64_t j) const { return &sums_[place(i, j) * up_.channels]; }

 private:
  int64_t place(int64_t i, int64_t j) const { return 3 * place(up_.rows, i) + place(up_.columns, j); }
  static int64_t place(const UpsampledAxis& axis, int64_t i) { return i == 0 ? 0 : i < axis.size - 1 ? 1 : 2; }

  void add(int64_t i, int64_t j) {
    Acc* sums = &sums_[place(i, j) * up_.channels];
    std::fill_n(sums, up_.channels, Acc(0));
    for (int64_t row = 0; row < 2 * up_.factor; ++row)
      for (int64_t column = 0; column < 2 * up_.factor; ++column)
        if (up_.rows.reaches(i, row) && up_.columns.reaches(j, column))
          for (int64_t c = 0; c < up_.channels; ++c) sums[c] += up_.tap(row * 2 * up_.factor + column)[c];
  }

  const Upsampling<Acc>& up_;
  std::vector<Acc> sums_;
};

// The sums of the inputs that a tap of a row of weights reaches: in the first of these regions all but the first input,
// then all, then all but the last.
constexpr int64_t REGIONS = 3;

inline int64_t region(int64_t tap, int64_t factor) {
  return tap < factor / 2 ? 0 : tap < 3 * factor / 2 ? 1 : 2;
}

// Of every row of inputs and region of its columns: (N, H, REGIONS, C).
template <class T, class Acc = acc_t<T>>
std::vector<Acc> sum_rows(const Layout& layout, const Map<const T>& deep) {
  const int64_t channels = layout.channels, height = layout.height, width = layout.width;
  std::vector<Acc> sums(layout.batch * height * REGIONS * channels);
  const auto store = [&](Acc* of_row, int64_t c, Acc first, Acc middle, Acc last) {
    of_row[c] = width > 1 ? middle + last : 0;
    of_row[channels + c] = width > 1 ? (first + last) + middle : first;
    of_row[2 * channels + c] = width > 1 ? first + middle : 0;
  };
  if (layout.channels_last) {
    for_each_piece<Acc>(layout.batch, 1, height, 1, 1, (3 + UNROLL) * channels, [&](const Piece& row, Acc* buffer) {
      Acc *middle = buffer + UNROLL * channels, *ends = middle + channels;
      std::fill_n(middle, channels, Acc(0));
      const int64_t first = row.first * width, last = first + width - 1;
      for_each_pixels(deep, row.n, first + 1, width - 2, channels, buffer, [&](const auto& pixels, int64_t) {
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) middle[c] += pixels.sum(c);
      });
      const Acc* first_pixel = widened(deep.at(row.n, 0, first), channels, ends);
      const Acc* last_pixel = widened(deep.at(row.n, 0, last), channels, ends + channels);
      for (int64_t c = 0; c < channels; ++c)
        store(&sums[row.unit * REGIONS * channels], c, first_pixel[c], middle[c], last_pixel[c]);
    });
  } else {
    const int64_t grain = ceil_div(TILE, std::max<int64_t>(1, width));
    for_each_piece<Acc>(layout.batch, channels, height, 1, grain, width, [&](const Piece& row, Acc* buffer) {
      const Acc* values = widened(deep.at(row.n, row.row, row.first * width), width, buffer);
      Acc middle = 0;
#pragma omp simd reduction(+ : middle)
      for (int64_t j = 1; j < width - 1; ++j) middle += values[j];
      Acc* of_row = &sums[(row.n * height + row.first) * REGIONS * channels];
      store(of_row, row.row, values[0], middle, values[width - 1]);
    });
  }
  return sums;
}

// The gradient that every output gets, and the further one that a channel's maximum gets.
template <class T>
struct Upstream {
  using Acc = acc_t<T>;
  std::vector<Acc> of_all, of_maximum;  // (N, C)

  Upstream(const T* of_avg, const T* of_max, int64_t count, int64_t pixels) : of_all(count), of_maximum(count) {
    for (int64_t i = 0; of_avg && i < count; ++i) of_all[i] = static_cast<Acc>(of_avg[i]) / static_cast<Acc>(pixels);
    for (int64_t i = 0; of_max && i < count; ++i) of_maximum[i] = static_cast<Acc>(of_max[i]);
  }
};

template <class T, class Acc = acc_t<T>>
void backward_deep(const Layout& layout, const Upsampling<Acc>& up, const Upstream<T>& upstream, bool of_mean,
                   bool of_max, const int64_t* indices, const Map<T>& d_deep) {
  const int64_t channels = layout.channels, width = layout.width;
  const Shares<Acc> shares(up, of_mean);
  if (layout.channels_last) {
    for_each_tile<Acc>(layout.batch, layout.pixels, CHANNELS_LAST_TILE, 0, [&](const Piece& tile, Acc*) {
      const Acc* of_all = &upstream.of_all[tile.n * channels];
      for (int64_t p = tile.first; p < tile.first + tile.count; ++p) {
        const Acc* share = shares.at(p / width, p % width);
        fill_row<Acc>(d_deep.at(tile.n, 0, p), channels, false, [&](int64_t c) { return of_all[c] * share[c]; });
      }
    });
  } else {
    const int64_t grain = ceil_div(TILE, std::max<int64_t>(1, width));
    for_each_piece<Acc>(layout.batch, channels, layout.height, 1, grain, 0, [&](const Piece& row, Acc*) {
      const int64_t c = row.row;
      const Acc of_all = upstream.of_all[row.n * channels + c];
      T* values = d_deep.at(row.n, c, row.first * width);
      if (width > 2) std::fill_n(values + 1, width - 2, static_cast<T>(of_all * shares.at(row.first, 1)[c]));
      for (const int64_t j : {int64_t(0), width - 1}) values[j] = static_cast<T>(of_all * shares.at(row.first, j)[c]);
    });
  }
  for (int64_t n = 0; of_max && n < layout.batch; ++n)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = n * channels + c, p = indices[at];
      const Acc of_all = upstream.of_all[at], of_maximum = upstream.of_maximum[at];
      up.for_each_input(p / up.width(), p % up.width(), [&](int, int64_t i, int64_t j, int64_t tap) {
        const Acc value = of_all * shares.at(i, j)[c] + of_maximum * up.tap(tap)[c];
        *d_deep.at(n, c, i * width + j) = static_cast<T>(value);
      });
    }
}

template <class T, class Acc = acc_t<T>>
std::vector<double> backward_weight(const Layout& layout, const Upsampling<Acc>& up, const Upstream<T>& upstream,
                                    bool of_mean, bool of_max, const int64_t* indices, const Map<const T>& deep) {
  const int64_t channels = layout.channels, height = layout.height;
  std::vector<double> total(up.taps * channels);
  if (of_mean) {
    const std::vector<Acc> sums = sum_rows(layout, deep);
    std::vector<double> regions(REGIONS * REGIONS * channels);
    for (int64_t n = 0; n < layout.batch; ++n) {
      std::fill(regions.begin(), regions.end(), 0.0);
      for (int64_t i = 0; i < height; ++i) {
        const Acc* of_row = &sums[(n * height + i) * REGIONS * channels];
        for (int64_t r = i > 0 ? 0 : 1; r < (i < height - 1 ? 3 : 2); ++r)
          for (int64_t k = 0; k < REGIONS * channels; ++k) regions[r * REGIONS * channels + k] += of_row[k];
      }
      for (int64_t tap = 0; tap < up.taps; ++tap) {
        const int64_t row = tap / (2 * up.factor), column = tap % (2 * up.factor);
        const double* inputs = &regions[(region(row, up.factor) * REGIONS + region(column, up.factor)) * channels];
        const Acc* of_all = &upstream.of_all[n * channels];
        for (int64_t c = 0; c < channels; ++c) total[tap * channels + c] += of_all[c] * inputs[c];
      }
    }
  }
  for (int64_t n = 0; of_max && n < layout.batch; ++n)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = n * channels + c, p = indices[at];
      const double of_maximum = upstream.of_maximum[at];
      up.for_each_input(p / up.width(), p % up.width(), [&](int, int64_t i, int64_t j, int64_t tap) {
        total[tap * channels + c] += of_maximum * static_cast<Acc>(*deep.at(n, c, i * layout.width + j));
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
    backward_deep(layout, up, upstream, of_avg, of_max, indices, dy);
  }
  if (grads[1]) store_weight(check, up, backward_weight(layout, up, upstream, of_avg, of_max, indices, y), *grads[1]);
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
