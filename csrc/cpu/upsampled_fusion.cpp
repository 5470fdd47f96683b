// upsampled_fusion on the CPU: attentive_fusion of a deep map that is upsampled first.
//
// A row or a pixel of the upsampled map is made where it is used, and so is its gradient. Backward, a tile is of pixels
// of the deep map and of the outputs that these are near to; half as many outputs again around them add to its
// gradient.
#include <utility>

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
  const auto fuse = [&](int64_t n, int64_t r, int64_t first, int64_t steps, const auto& y, Acc* buffer) {
    const Coefficients<Acc> k = in.fusion.coefficients(n, 0);
    const Acc x_across = k.x_across[r], y_across = k.y_across[r];
    const Acc *x_along = k.x_along + first, *y_along = k.y_along + first;
    const Acc* xr = widened(layout.at(in.x, n, r, first), steps, buffer);
    fill_row<Acc>(layout.at(o, n, r, first), steps, stream,
                  [&](int64_t i) { return x_along[i] * x_across * xr[i] + y_along[i] * y_across * y[i]; });
  };
  if (layout.channels_last) {
    const int64_t channels = layout.channels, scratch = channels + UpsampledPixels<T>::scratch(in.up);
    for_each_tile<Acc>(layout.batch, layout.pixels, TILE / 8, scratch, [&](const Piece& tile, Acc* buffer) {
      UpsampledPixels<T> upsampled(in.up, in.y, tile.n, buffer + channels);
      for (int64_t p = tile.first; p < tile.first + tile.count; ++p)
        fuse(tile.n, p, 0, channels, upsampled.pixel(p / width, p % width), buffer);
    });
  } else {
    const int64_t size = ceil_div(TILE, std::max<int64_t>(1, width)) * width;
    for_each_row<Acc>(layout, size, 2 * width + UpsampledRows<T>::scratch(in.up), [&](const Piece& piece, Acc* row) {
      Acc* buffer = row + width;
      UpsampledRows<T> upsampled(in.up, in.y, buffer + width);
      upsampled.start(piece.n, piece.row);
      for (int64_t first = piece.first; first < piece.first + piece.count; first += width) {
        upsampled.row(first / width, row);
        fuse(piece.n, piece.row, first, width, row, buffer);
      }
    });
  }
}

// Along an axis, the inputs of a tile, the outputs that are near to them, and with `around` those that are far as well.
struct Span {
  int64_t first_input, last_input, first, last, first_around, last_around;

  Span(const UpsampledAxis& axis, int64_t input, int64_t count, bool around)
      : first_input(input),
        last_input(std::min(input + count, axis.size)),
        first(axis.factor * first_input),
        last(axis.factor * last_input),
        first_around(around ? std::max<int64_t>(0, first - axis.factor / 2) : first),
        last_around(around ? std::min(axis.factor * axis.size, last + axis.factor / 2) : last) {}

  bool has(int64_t output) const { return first <= output && output < last; }
  bool has_input(int64_t i) const { return first_input <= i && i < last_input; }
};

template <class T>
class Backward {
 public:
  using Acc = acc_t<T>;

  Backward(const Inputs<T>& in, const Tensor& grad, const Gradients& grads)
      : in_(in),
        channels_(in.layout.channels),
        g_(check.map<const T>("grad", grad, in.layout)),
        dx_(check.map<T>("grad of shallow", grads[0], in.layout)),
        dy_(check.map<T>("grad of deep", grads[1], in.deep_layout)),
        ds_(optional_map(check, "grad of spatial_logits", grads[3], in.layout.of_pixels())),
        dq_(optional_map(check, "grad of channel_logits", grads[4], in.layout.of_channels())),
        of_x_(grads[0]),
        of_y_(grads[1]),
        of_weight_(grads[2]),
        stream_(streamed(grads[0])) {
    const int64_t height = in.deep_layout.height, width = in.deep_layout.width;
    const int64_t outputs_of_row = in.up.factor * in.up.factor * std::max<int64_t>(1, width);
    rows_ = in.layout.channels_last ? 8 : std::max<int64_t>(4, TILE / outputs_of_row);
    columns_ = in.layout.channels_last ? 32 : std::max<int64_t>(1, width);
    tiles_ = ceil_div(height, rows_) * ceil_div(width, columns_);
    if (dq_) channel_sums_.resize(in.layout.batch * tiles_ * channels_);
    if (of_weight_) weight_sums_.resize(in.layout.batch * tiles_ * in.up.taps * channels_);
  }

  void run() {
    const int64_t rows = ceil_div(in_.deep_layout.height, rows_), width = in_.deep_layout.width;
    const int64_t scratch = in_.layout.channels_last ? scratch_of_pixels() : scratch_of_rows();
    for_each_piece<Acc>(in_.layout.batch, rows, width, columns_, 1, scratch, [&](const Piece& tile, Acc* free) {
      const Span rows(in_.up.rows, tile.row * rows_, rows_, of_up()),
          columns(in_.up.columns, tile.first, columns_, of_up());
      if (in_.layout.channels_last)
        pixels(tile, rows, columns, free);
      else
        channels(tile, rows, free);
    });
  }

  void store_channel() const {
    if (dq_) in_.fusion.store_channel(*dq_, channel_sums_, tiles_);
  }

  void store_weight(const Tensor& d_weight) const {
    std::vector<double> total(in_.up.taps * channels_);
    for (size_t i = 0; i < weight_sums_.size(); i += total.size())
      for (size_t k = 0; k < total.size(); ++k) total[k] += weight_sums_[i + k];
    afa::store_weight(check, in_.up, total, d_weight);
  }

 private:
  bool of_up() const { return of_y_ || of_weight_; }
  bool of_logits() const { return ds_ || dq_; }

  // Of row r of a tile, or of one around it, which gives nothing but d_up.
  Acc differentiate_row(bool of_tile, const Coefficients<Acc>& k, int64_t r, int64_t steps, const Acc* g, const Acc* x,
                        const Acc* up, Acc* dx, Acc* d_up, Acc* sums) const {
    Acc sum = 0;
    const auto run = [&](auto of_x, auto of_up, auto of_logits) {
      sum = differentiate_terms_of_row<of_x, of_up, of_logits>(g, std::array{x, up}, std::array{k.x_along, k.y_along},
                                                               std::array{k.x_across[r], k.y_across[r]}, steps,
                                                               std::array{dx, d_up}, sums);
    };
    dispatch_flags(run, of_tile && of_x_, of_up(), of_tile && of_logits());
    return sum;
  }

  int64_t scratch_of_rows() const {
    const int64_t width = in_.layout.width, rows = rows_ * in_.up.factor;
    return UpsampledRows<T>::scratch(in_.up) + in_.up.taps + (6 + rows) * width + rows_ * in_.deep_layout.width;
  }

  // A tile of NCHW, channel by channel.
  void channels(const Piece& tile, const Span& rows, Acc* free) {
    const int64_t width = in_.layout.width, deep_width = in_.deep_layout.width, taps = in_.up.taps;
    const int64_t inputs = (rows.last_input - rows.first_input) * deep_width,
                  outputs = (rows.last - rows.first) * width;
    const auto take = [&](int64_t count) { return std::exchange(free, free + count); };
    UpsampledRows<T> upsampled(in_.up, in_.y, take(UpsampledRows<T>::scratch(in_.up)));
    Acc *g_buffer = take(width), *x_buffer = take(width), *dx_buffer = take(width), *up = take(width);
    Acc *d_up = take(width), *phases = take(width), *d_inputs = take(inputs), *d_weights = take(taps);
    Acc* of_pixels = take(outputs);
    std::fill_n(of_pixels, outputs, Acc(0));
    for (int64_t c = 0; c < channels_; ++c) {
      upsampled.start(tile.n, c);
      std::fill_n(d_inputs, inputs, Acc(0));
      std::fill_n(d_weights, taps, Acc(0));
      Acc sum = 0;
      for (int64_t r = rows.first_around; r < rows.last_around; ++r) {
        const int64_t first = r * width;
        const bool of_tile = rows.has(r);
        const Acc *g = widened(g_.at(tile.n, c, first), width, g_buffer), *x = nullptr;
        if (of_tile && of_logits()) {
          x = widened(in_.x.at(tile.n, c, first), width, x_buffer);
          upsampled.row(r, up);
        }
        T* dx_row = of_tile && of_x_ ? dx_.at(tile.n, c, first) : nullptr;
        Acc* dx = computed_in(dx_row, dx_buffer, stream_);
        const Coefficients<Acc> k = in_.fusion.coefficients(tile.n, first);
        sum += differentiate_row(of_tile, k, c, width, g, x, up, dx, d_up, of_pixels + (r - rows.first) * width);
        store(dx, width, dx_row, stream_);
        if (!of_up()) continue;
        deinterleave(d_up, deep_width, in_.up.factor, phases);
        in_.up.rows.for_each_input(r, [&](int64_t i, int64_t tap) {
          if (!rows.has_input(i)) return;
          collect_row(in_.up.columns, phases, upsampled.weights(tap), upsampled.input(i),
                      d_inputs + (i - rows.first_input) * deep_width, d_weights + tap * in_.up.taps_of_row());
        });
      }
      if (of_y_) store_values(d_inputs, inputs, dy_.at(tile.n, c, rows.first_input * deep_width));
      if (dq_) channel_sums_[tile.unit * channels_ + c] = sum;
      for (int64_t i = 0; of_weight_ && i < taps; ++i)
        weight_sums_[(tile.unit * taps + i) * channels_ + c] = d_weights[i];
    }
    if (ds_) in_.fusion.store_spatial(*ds_, tile.n, rows.first * width, outputs, of_pixels);
  }

  int64_t scratch_of_pixels() const {
    return UpsampledPixels<T>::scratch(in_.up) + (7 + rows_ * columns_ + in_.up.taps) * channels_ +
           columns_ * in_.up.factor;
  }

  // A tile of channels_last, pixel by pixel.
  void pixels(const Piece& tile, const Span& rows, const Span& columns, Acc* free) {
    const int64_t width = in_.layout.width, taps = in_.up.taps, inputs = rows_ * columns_;
    const auto take = [&](int64_t count) { return std::exchange(free, free + count); };
    UpsampledPixels<T> upsampled(in_.up, in_.y, tile.n, take(UpsampledPixels<T>::scratch(in_.up)));
    Acc *g_buffer = take(channels_), *x_buffer = take(channels_), *dx_buffer = take(channels_), *up = take(channels_);
    Acc *d_up = take(channels_), *of_row = take(channels_), *of_channels = take(channels_);
    Acc *d_inputs = take(inputs * channels_), *d_weights = take(taps * channels_);
    Acc* of_pixels = take(columns_ * in_.up.factor);
    std::fill_n(d_inputs, inputs * channels_, Acc(0));
    std::fill_n(d_weights, taps * channels_, Acc(0));
    std::fill_n(of_channels, channels_, Acc(0));
    const auto d_input = [&](int64_t i, int64_t j) {
      return d_inputs + ((i - rows.first_input) * columns_ + j - columns.first_input) * channels_;
    };
    for (int64_t r = rows.first_around; r < rows.last_around; ++r) {
      std::fill_n(of_row, channels_, Acc(0));  // not one by one over the whole tile: shorter sums
      for (int64_t q = columns.first_around; q < columns.last_around; ++q) {
        const int64_t p = r * width + q;
        const bool of_tile = rows.has(r) && columns.has(q);
        const Acc *g = widened(g_.at(tile.n, 0, p), channels_, g_buffer), *x = nullptr;
        const UpsampledPixel<Acc> pixel = upsampled.pixel(r, q);
        if (of_tile && of_logits()) {
          x = widened(in_.x.at(tile.n, 0, p), channels_, x_buffer);
          pixel.store(channels_, up);
        }
        T* dx_pixel = of_tile && of_x_ ? dx_.at(tile.n, 0, p) : nullptr;
        Acc* dx = computed_in(dx_pixel, dx_buffer, stream_);
        const Coefficients<Acc> k = in_.fusion.coefficients(tile.n, p);
        const Acc sum = differentiate_row(of_tile, k, 0, channels_, g, x, up, dx, d_up, of_row);
        if (of_tile) of_pixels[q - columns.first] = sum;
        store(dx, channels_, dx_pixel, stream_);
        if (!of_up()) continue;
        in_.up.for_each_input(r, q, [&](int i, int64_t row, int64_t column, int64_t tap) {
          if (rows.has_input(row) && columns.has_input(column))
            collect_pixel(channels_, d_up, pixel.weights[i], pixel.inputs[i], d_input(row, column),
                          d_weights + tap * channels_);
        });
      }
      if (!rows.has(r)) continue;
      for (int64_t c = 0; c < channels_; ++c) of_channels[c] += of_row[c];
      if (ds_)
        in_.fusion.store_spatial(*ds_, tile.n, r * width + columns.first, columns.last - columns.first, of_pixels);
    }
    for (int64_t i = rows.first_input; of_y_ && i < rows.last_input; ++i)
      for (int64_t j = columns.first_input; j < columns.last_input; ++j)
        store_values(d_input(i, j), channels_, dy_.at(tile.n, 0, i * in_.deep_layout.width + j));
    if (dq_) std::copy_n(of_channels, channels_, &channel_sums_[tile.unit * channels_]);
    if (of_weight_) std::copy_n(d_weights, taps * channels_, &weight_sums_[tile.unit * taps * channels_]);
  }

  static void store_values(const Acc* values, int64_t count, T* row) {
    fill_row<Acc>(row, count, false, [&](int64_t i) { return values[i]; });
  }

  const Inputs<T>& in_;
  int64_t channels_;
  Map<const T> g_;
  Map<T> dx_, dy_;
  std::optional<AnyMap> ds_, dq_;
  bool of_x_, of_y_, of_weight_, stream_;
  int64_t rows_, columns_, tiles_;               // of a tile in the deep map, and how many there are
  std::vector<Acc> channel_sums_, weight_sums_;  // (N, tiles, C) and (N, tiles, 4 f^2, C)
};

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& weight,
              const Tensor& spatial, const Tensor& channel, const Gradients& grads) {
  const Inputs<T> in(shallow, deep, weight, spatial, channel);
  Backward<T> backward(in, grad, grads);
  for (int64_t i : {0, 1})
    if (grads[i]) back_with_huge_pages(*grads[i]);
  backward.run();
  backward.store_channel();
  if (grads[2]) backward.store_weight(*grads[2]);
}

void upsampled_fusion_forward(Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, Tensor channel_logits,
                              Tensor out) {
  dispatch(shallow.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(shallow, deep, weight, spatial_logits, channel_logits, out); });
}

void upsampled_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits,
                               Tensor channel_logits, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, weight, spatial_logits, channel_logits, check.spread(grads, needed, 5));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("upsampled_fusion_forward", TORCH_BOX(&afa::upsampled_fusion_forward));
  m.impl("upsampled_fusion_backward", TORCH_BOX(&afa::upsampled_fusion_backward));
}
