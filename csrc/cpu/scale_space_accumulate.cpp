// scale_space_accumulate on the CPU: rendered += T up(weight) up(prediction) and T *= 1 - up(weight), a row at a time.
#include "render.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_accumulate"};

template <class T, class Acc = acc_t<T>>
void accumulate(const Tensor& rendered, const std::optional<Tensor>& transmittance, const Tensor& prediction,
                const Tensor& weight, bool first_scale) {
  const int64_t batch = rendered.size(0), channels = rendered.size(1), height = rendered.size(2);
  const int64_t width = rendered.size(3);
  const bool channels_last = pixel_stride(rendered) != 1 || pixel_stride(prediction) != 1;
  check.pixels("prediction", prediction);
  check.pixels("weight", weight);
  const auto out = check.map<Acc>("rendered", rendered, {batch, channels, height, width}, channels_last);
  Acc* through = check.flat<Acc>("transmittance", transmittance, batch * height * width);
  const int64_t in_height = prediction.size(2), in_width = prediction.size(3);
  const Resized<T> scale(
      check.map<const T>("prediction", prediction, {batch, channels, in_height, in_width}, channels_last), in_height,
      in_width, height, width);
  const Resized<Acc> map(check.map<const Acc>("weight", weight, {batch, 1, weight.size(2), weight.size(3)}, false),
                         weight.size(2), weight.size(3), height, width);
  const int64_t scratch_row = std::max(scale.scratch(), map.scratch()), value_row = std::max(COLUMNS, channels);
  const int64_t held = Neighbours<Acc>::size(1, COLUMNS);
  if (first_scale) back_with_huge_pages(rendered);

  const int64_t size = (ROWS + 1) * COLUMNS + scratch_row + value_row + held;
  for_each_piece<Acc>(batch, ceil_div(height, ROWS), width, COLUMNS, 1, size, [&](const Piece& piece, Acc* weights) {
    Acc *source = weights + ROWS * COLUMNS, *value = source + scratch_row, *zeros = value + value_row;
    const int64_t n = piece.n, first = piece.first, count = piece.count;
    const int64_t begin = piece.row * ROWS, end = std::min(height, begin + ROWS);
    std::fill_n(zeros, COLUMNS, Acc(0));
    Neighbours<Acc> of_weights(map, 1, COLUMNS, zeros, zeros + COLUMNS);
    of_weights.begin(n, 0, first, count, begin, end);
    for (int64_t y = begin; y < end; ++y) {
      Acc* w = weights + (y - begin) * COLUMNS;
      of_weights.move_to(y, source);
      const Between<Acc> row = of_weights.at();
      for (int64_t i = 0; i < count; ++i) w[i] = row(i);
      if (!through) continue;
      Acc* t = through + (n * height + y) * width + first;
      for (int64_t i = 0; i < count; ++i) {
        Acc transmittance_i = first_scale ? Acc(1) : t[i];
        w[i] = composite(w[i], false, transmittance_i);
        t[i] = transmittance_i;
      }
    }
    const auto add = [&](Acc* __restrict sum, int64_t length, const auto& weighted) {
      for (int64_t i = 0; i < length; ++i) sum[i] = (first_scale ? Acc(0) : sum[i]) + weighted(i);
    };
    if (channels_last) {
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t x = 0; x < count; ++x) {
          const Acc w = weights[(y - begin) * COLUMNS + x];
          scale.pixel(n, channels, y, first + x, value);
          add(out.at(n, 0, y * width + first + x), channels, [&](int64_t c) { return w * value[c]; });
        }
      }
      return;
    }
    Neighbours<T> of_scale(scale, 1, COLUMNS, zeros, zeros + COLUMNS);
    for (int64_t c = 0; c < channels; ++c) {
      of_scale.begin(n, c, first, count, begin, end);
      for (int64_t y = begin; y < end; ++y) {
        of_scale.move_to(y, source);
        const Acc* w = weights + (y - begin) * COLUMNS;
        const Between<Acc> row = of_scale.at();
        add(out.at(n, c, y * width + first), count, [&](int64_t i) { return w[i] * row(i); });
      }
    }
  });
}

void scale_space_accumulate_forward(Tensor rendered, std::optional<Tensor> transmittance, Tensor prediction,
                                    Tensor weight, bool first) {
  dispatch(prediction.scalar_type(), check.op,
           [&](auto t) { accumulate<decltype(t)>(rendered, transmittance, prediction, weight, first); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_accumulate_forward", TORCH_BOX(&afa::scale_space_accumulate_forward));
}
