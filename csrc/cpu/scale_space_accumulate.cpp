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
  if (first_scale) back_with_huge_pages(rendered);

  for_each_span<Acc>(batch, height, width, COLUMNS + scratch_row + value_row,
                     [&](int64_t n, int64_t y, int64_t first, int64_t count, Acc* weights) {
                       Acc *source = weights + COLUMNS, *value = source + scratch_row;
                       const int64_t at = y * width + first;
                       map.row(n, 0, y, first, count, source, weights);
                       if (through) {
                         Acc* t = through + n * height * width + at;
                         for (int64_t i = 0; i < count; ++i) {
                           Acc transmittance_i = first_scale ? Acc(1) : t[i];
                           weights[i] = composite(weights[i], false, transmittance_i);
                           t[i] = transmittance_i;
                         }
                       }
                       const int64_t rows = channels_last ? count : channels, length = channels_last ? channels : count;
                       for (int64_t r = 0; r < rows; ++r) {
                         scale.values(channels_last, n, channels, y, first, count, r, source, value);
                         Acc* row = channels_last ? out.at(n, 0, at + r) : out.at(n, r, at);
                         if (first_scale) std::fill_n(row, length, Acc(0));
                         add_weighted(channels_last, weights, r, length, value, row);
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
