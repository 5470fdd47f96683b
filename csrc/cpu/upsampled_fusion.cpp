// upsampled_fusion on the CPU: attentive_fusion of a deep map that is upsampled first.
//
// A row or a pixel of the upsampled map is made where it is used, and so is its gradient. Backward, a tile is of pixels of
// the deep map and of the outputs that these are near to; half as many outputs again around them add to its gradient.
#include "fusion.h"
#include "upsampling.h"

namespace afa {
namespace {

constexpr Checker check{"upsampled_fusion"};

template <class T>
struct Inputs {
  using Acc = acc_t<T>;
  Fusion<T> fusion;
  const Layout& layout;
  Layout deep_layout;
  Upsampling<Acc> up;
  Map<const T> x, y;

  Inputs(const Tensor& shallow, const Tensor& deep, const Tensor& weight, const Tensor& spatial, const Tensor& channel)
      : fusion(check, shallow, spatial, channel), layout(fusion.layout), deep_layout(deep), up(check, weight, deep) {
    check.shape("shallow", shallow, {deep_layout.batch, deep_layout.channels, up.height(), up.width()});
    deep_layout.channels_last = layout.channels_last;
    x = check.map<const T>("shallow", shallow, layout);
    y = check.map<const T>("deep", deep, deep_layout);
  }
};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& weight, const Tensor& spatial,
             const Tensor& channel, const Tensor& out) {
  const Inputs<T> in(shallow, deep, weight, spatial, channel);
  const Layout& layout = in.layout;
  const int64_t width = layout.width;
  const auto o = check.map<T>("out", out, layout);
  const bool stream = streamed(out);
  back_with_huge_pages(out);
  const auto fuse = [&](int64_t n, int64_t r, int64_t first, int64_t steps, const auto& y) {
    const Coefficients<Acc> k = in.fusion.coefficients(n, 0);
    const Acc x_across = k.x_across[r], y_across = k.y_across[r];
    const Acc *x_along = k.x_along + first, *y_along = k.y_along + first;
    const T* xr = layout.at(in.x, n, r, first);
    fill_row<Acc>(layout.at(o, n, r, first), steps, stream, [&](int64_t i) {
      return x_along[i] * x_across * static_cast<Acc>(xr[i]) + y_along[i] * y_across * y[i];
    });
  };
  if (layout.channels_last) {
    const int64_t scratch = UpsampledPixels<T>::scratch(in.up);
    for_each_tile<Acc>(layout.batch, layout.pixels, TILE / 8, scratch, [&](const Piece& tile, Acc* buffer) {
      UpsampledPixels<T> upsampled(in.up, in.y, tile.n, buffer);
      for (int64_t p = tile.first; p < tile.first + tile.count; ++p)
        fuse(tile.n, p, 0, layout.channels, upsampled.pixel(p / width, p % width));
    });
  } else {
    const int64_t size = ceil_div(TILE, std::max<int64_t>(1, width)) * width;
    for_each_row<Acc>(layout, size, width + UpsampledRows<T>::scratch(in.up), [&](const Piece& piece, Acc* row) {
      UpsampledRows<T> upsampled(in.up, in.y, row + width);
      upsampled.start(piece.n, piece.row);
      for (int64_t first = piece.first; first < piece.first + piece.count; first += width) {
        upsampled.row(first / width, row);
        fuse(piece.n, piece.row, first, width, row);
      }
    });
  }
}

// The outputs that are near to inputs [first, first + count) of an axis, and those that take them as far ones too.
struct Outputs {
  int64_t first, last, reached_first, reached_last;

  Outputs(const UpsampledAxis& axis, int64_t input, int64_t count, bool all)
      : first(axis.factor * input),
        last(first + axis.factor * count),
        reached_first(all ? std::max<int64_t>(0, first - axis.factor / 2) : first),
        reached_last(all ? std::min(axis.factor * axis.size, last + axis.factor / 2) : last) {}

  bool has(int64_t output) const { return first <= output && output < last; }
};

template <class T>
struct Backward {
  using Acc = acc_t<T>;
  const Inputs<T>& in;
  Map<const T> g;
  Map<T> dx, dy;
  std::optional<AnyMap> ds, dq;
  bool of_x, of_y, of_up, stream;
  int64_t tile_rows, tile_columns, tiles;        // of the deep map
  std::vector<Acc> channel_sums, weight_sums;  // (N, tiles, C) and (N, tiles, 4 f^2, C)

  Backward(const Inputs<T>& in, const Tensor& grad, const Gradients& grads)
      : in(in),
        g(check.map<const T>("grad", grad, in.layout)),
        dx(check.map<T>("grad of shallow", grads[0], in.layout)),
        dy(check.map<T>("grad of deep", grads[1], in.deep_layout)),
        ds(optional_map(check, "grad of spatial_logits", grads[3], in.layout.of_pixels())),
        dq(optional_map(check, "grad of channel_logits", grads[4], in.layout.of_channels())),
        of_x(grads[0].has_value()),
        of_y(grads[1].has_value()),
        of_up(grads[1] || grads[2]),
        stream(streamed(grads[0])) {
    const int64_t height = in.deep_layout.height, width = in.deep_layout.width, area = in.up.factor * in.up.factor;
    tile_columns = in.layout.channels_last ? 32 : width;
    tile_rows = in.layout.channels_last ? 8 : std::max<int64_t>(4, TILE / std::max<int64_t>(1, area * width));
    tiles = ceil_div(height, tile_rows) * ceil_div(width, std::max<int64_t>(1, tile_columns));
    if (dq) channel_sums.resize(in.layout.batch * tiles * in.layout.channels);
    if (grads[2]) weight_sums.resize(in.layout.batch * tiles * in.up.taps * in.layout.channels);
  }

  void rows() {
    const Layout& layout = in.layout;
    const UpsampledAxis& axis = in.up.columns;
    const int64_t channels = layout.channels, width = layout.width, inputs = tile_rows * axis.size;
    const int64_t scratch =
        UpsampledRows<T>::scratch(in.up) + (tile_rows * in.up.factor + 6) * width + inputs + in.up.taps;
    for_each_piece<Acc>(layout.batch, 1, in.deep_layout.height, tile_rows, 1, scratch, [&](const Piece& tile, Acc* free) {
      const auto take = [&](int64_t count) { return std::exchange(free, free + count); };
      UpsampledRows<T> upsampled(in.up, in.y, take(UpsampledRows<T>::scratch(in.up)));
      Acc *g_buffer = take(width), *x_buffer = take(width), *up = take(width), *dx_buffer = take(width);
      Acc *d_up = take(width), *phases = take(width), *d_input = take(inputs), *d_weights = take(in.up.taps);
      Acc* of_pixels = take(tile_rows * in.up.factor * width);
      const Outputs outputs(in.up.rows, tile.first, tile.count, of_up);
      std::fill_n(of_pixels, tile.count * in.up.factor * width, Acc(0));
      const auto run = [&](auto of_x, auto of_up, auto of_logits) {
        for (int64_t c = 0; c < channels; ++c) {
          upsampled.start(tile.n, c);
          std::fill_n(d_input, tile.count * axis.size, Acc(0));
          std::fill_n(d_weights, in.up.taps, Acc(0));
          Acc sum = 0;
          for (int64_t r = outputs.reached_first; r < outputs.reached_last; ++r) {
            const Coefficients<Acc> k = in.fusion.coefficients(tile.n, r * width);
            const Acc* gr = widened(g.at(tile.n, c, r * width), width, g_buffer);
            if (outputs.has(r)) {
              const Acc* xr = gr;
              if constexpr (of_logits) {
                xr = widened(in.x.at(tile.n, c, r * width), width, x_buffer);
                upsampled.row(r, up);
              }
              T* dx_row = of_x ? dx.at(tile.n, c, r * width) : nullptr;
              Acc* dxr = computed_in(dx_row, dx_buffer, stream);
              Acc* sums = of_pixels + (r - outputs.first) * width;
              sum += differentiate<of_x, of_up, of_logits>(k, c, width, gr, xr, up, dxr, d_up, sums);
              store(dxr, width, dx_row, stream);
            } else if constexpr (of_up) {
              differentiate<false, true, false>(k, c, width, gr, gr, gr, d_up, d_up, d_up);
            }
            if constexpr (of_up) {
              deinterleave(d_up, axis.size, axis.factor, phases);
              const auto taps = in.up.rows.taps(r);
              const auto collect = [&](int64_t i, int64_t tap) {
                if (i < tile.first || i >= tile.first + tile.count) return;
                collect_row(axis, phases, upsampled.weights(tap), upsampled.input(i),
                            d_input + (i - tile.first) * axis.size, d_weights + tap * 2 * axis.factor);
              };
              collect(taps.near, taps.near_tap);
              collect(taps.far, taps.far_tap);
            }
          }
          if (of_y) fill_row<Acc>(dy.at(tile.n, c, tile.first * axis.size), tile.count * axis.size, false, [&](int64_t i) { return d_input[i]; });
          if (dq) channel_sums[tile.unit * channels + c] = sum;
          for (size_t i = 0; !weight_sums.empty() && i < size_t(in.up.taps); ++i) weight_sums[(tile.unit * in.up.taps + i) * channels + c] = d_weights[i];
        }
      };
      dispatch_flags(run, of_x, of_up, ds || dq);
      if (ds) in.fusion.store_spatial(*ds, tile.n, outputs.first * width, tile.count * in.up.factor * width, of_pixels);
    });
  }

  void pixels() {
    const Layout& layout = in.layout;
    const int64_t channels = layout.channels, width = layout.width, inputs = tile_rows * tile_columns;
    const int64_t scratch = UpsampledPixels<T>::scratch(in.up) + (inputs + in.up.taps + 7) * channels +
                            tile_columns * in.up.factor;
    for_each_piece<Acc>(layout.batch, ceil_div(in.deep_layout.height, tile_rows), in.deep_layout.width, tile_columns, 1, scratch, [&](const Piece& tile, Acc* free) {
      const auto take = [&](int64_t count) { return std::exchange(free, free + count); };
      UpsampledPixels<T> upsampled(in.up, in.y, tile.n, take(UpsampledPixels<T>::scratch(in.up)));
      Acc *g_buffer = take(channels), *x_buffer = take(channels), *up = take(channels), *dx_buffer = take(channels);
      Acc *d_up = take(channels), *of_row = take(channels), *of_tile = take(channels);
      Acc *d_input = take(inputs * channels), *d_weights = take(in.up.taps * channels);
      Acc* of_pixels = take(tile_columns * in.up.factor);
      const int64_t first_row = tile.row * tile_rows, count = std::min(tile_rows, in.deep_layout.height - first_row);
      const Outputs rows(in.up.rows, first_row, count, of_up);
      const Outputs columns(in.up.columns, tile.first, tile.count, of_up);
      std::fill_n(d_input, inputs * channels, Acc(0));
      std::fill_n(d_weights, in.up.taps * channels, Acc(0));
      std::fill_n(of_tile, channels, Acc(0));
      const auto run = [&](auto of_x, auto of_up, auto of_logits) {
        for (int64_t r = rows.reached_first; r < rows.reached_last; ++r) {
          std::fill_n(of_row, channels, Acc(0));
          for (int64_t q = columns.reached_first; q < columns.reached_last; ++q) {
            const int64_t p = r * width + q;
            const Coefficients<Acc> k = in.fusion.coefficients(tile.n, p);
            const Acc* gp = widened(g.at(tile.n, 0, p), channels, g_buffer);
            const UpsampledPixel<Acc> pixel = upsampled.pixel(r, q);
            if (rows.has(r) && columns.has(q)) {
              const Acc* xp = gp;
              if constexpr (of_logits) {
                xp = widened(in.x.at(tile.n, 0, p), channels, x_buffer);
#pragma GCC ivdep
                for (int64_t c = 0; c < channels; ++c) up[c] = pixel[c];
              }
              T* dx_pixel = of_x ? dx.at(tile.n, 0, p) : nullptr;
              Acc* dxp = computed_in(dx_pixel, dx_buffer, stream);
              of_pixels[q - columns.first] = differentiate<of_x, of_up, of_logits>(k, 0, channels, gp, xp, up, dxp, d_up, of_row);
              store(dxp, channels, dx_pixel, stream);
            } else if constexpr (of_up) {
              differentiate<false, true, false>(k, 0, channels, gp, gp, gp, d_up, d_up, d_up);
            }
            if constexpr (of_up) {
              in.up.for_each_input(r, q, [&](int i, int64_t row, int64_t column, int64_t tap) {
                if (row < first_row || row >= first_row + count || column < tile.first || column >= tile.first + tile.count) return;
                const Acc *input = pixel.inputs[i], *weights = pixel.weights[i];
                Acc *of_input = d_input + ((row - first_row) * tile_columns + column - tile.first) * channels, *of_weights = d_weights + tap * channels;
#pragma GCC ivdep
                for (int64_t c = 0; c < channels; ++c) {
                  of_input[c] += weights[c] * d_up[c];
                  of_weights[c] += input[c] * d_up[c];
                }
              });
            }
          }
          if (!rows.has(r)) continue;
          if (ds) in.fusion.store_spatial(*ds, tile.n, r * width + columns.first, columns.last - columns.first, of_pixels);
          for (int64_t c = 0; c < channels; ++c) of_tile[c] += of_row[c];
        }
      };
      dispatch_flags(run, of_x, of_up, ds || dq);
      for (int64_t i = 0; of_y && i < count; ++i)
        for (int64_t j = 0; j < tile.count; ++j) {
          const Acc* of_input = d_input + (i * tile_columns + j) * channels;
          fill_row<Acc>(dy.at(tile.n, 0, (first_row + i) * in.deep_layout.width + tile.first + j), channels, false, [&](int64_t c) { return of_input[c]; });
        }
      if (dq) std::copy_n(of_tile, channels, &channel_sums[tile.unit * channels]);
      if (!weight_sums.empty()) std::copy_n(d_weights, in.up.taps * channels, &weight_sums[tile.unit * in.up.taps * channels]);
    });
  }
};

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& weight,
              const Tensor& spatial, const Tensor& channel, const Gradients& grads) {
  const Inputs<T> in(shallow, deep, weight, spatial, channel);
  Backward<T> backward(in, grad, grads);
  for (int64_t i : {0, 1})
    if (grads[i]) back_with_huge_pages(*grads[i]);
  if (in.layout.channels_last)
    backward.pixels();
  else
    backward.rows();
  if (backward.dq) in.fusion.store_channel(*backward.dq, backward.channel_sums, backward.tiles);
  if (!grads[2]) return;
  std::vector<double> total(in.up.taps * in.up.channels);
  for (size_t i = 0; i < backward.weight_sums.size(); i += total.size())
    for (size_t k = 0; k < total.size(); ++k) total[k] += backward.weight_sums[i + k];
  store_weight(check, in.up, total, *grads[2]);
}

void upsampled_fusion_forward(Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, Tensor channel_logits,
                              Tensor out) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    forward<decltype(t)>(shallow, deep, weight, spatial_logits, channel_logits, out);
  });
}

void upsampled_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits,
                               Tensor channel_logits, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, weight, spatial_logits, channel_logits,
                          check.spread(grads, needed, 5));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("upsampled_fusion_forward", TORCH_BOX(&afa::upsampled_fusion_forward));
  m.impl("upsampled_fusion_backward", TORCH_BOX(&afa::upsampled_fusion_backward));
}
