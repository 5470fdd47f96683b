// scale_space_accumulate on the CPU: rendered += T up(weight) up(prediction) and T *= 1 - up(weight), a row at a time.
#include "render.h"

namespace afa {
namespace {

template <class T>
void accumulate(const Tensor& rendered, const std::optional<Tensor>& transmittance, const Tensor& prediction,
                const Tensor& weight, bool first_scale) {
  using Acc = acc_t<T>;
  const int64_t batch = rendered.size(0), channels = rendered.size(1), height = rendered.size(2);
  const int64_t width = rendered.size(3);
  const auto out = as_map<Acc>(rendered, "rendered");
  Acc* left_of = transmittance ? static_cast<Acc*>(transmittance->data_ptr()) : nullptr;
  const Resized<T> scale(as_map<const T>(prediction, "prediction"), prediction.size(2), prediction.size(3), height,
                         width);
  const Resized<Acc> map(as_map<const Acc>(weight, "weight"), weight.size(2), weight.size(3), height, width);
  const bool planar = out.sp == 1 && scale.map.sp == 1;
  const int64_t scratch_row = std::max(scale.scratch(), map.scratch()), value_row = std::max(COLUMNS, channels);
  if (first_scale) back_with_huge_pages(rendered);

  for_each_row<Acc>(batch, height, width, COLUMNS + scratch_row + value_row,
                    [&](int64_t n, int64_t y, int64_t first, int64_t count, Acc* scratch) {
                      Acc *share = scratch, *source = share + COLUMNS, *value = source + scratch_row;
                      const int64_t at = y * width + first;
                      map.row(n, 0, y, first, count, source, share);
                      if (left_of) {
                        Acc* left = left_of + n * height * width + at;
                        for (int64_t i = 0; i < count; ++i) {
                          const Acc opacity = share[i], before = first_scale ? Acc(1) : left[i];
                          share[i] = before * opacity;
                          left[i] = before * (1 - opacity);
                        }
                      }
                      const int64_t rows = planar ? channels : count, length = planar ? count : channels;
                      for (int64_t r = 0; r < rows; ++r) {
                        if (planar) {
                          scale.row(n, r, y, first, count, source, value);
                          for (int64_t i = 0; i < length; ++i) value[i] *= share[i];
                        } else {
                          scale.pixel(n, channels, y, first + r, value);
                          for (int64_t i = 0; i < length; ++i) value[i] *= share[r];
                        }
                        Acc* row = out.at(n, planar ? r : 0, at + (planar ? 0 : r));
                        if (first_scale) {
                          for (int64_t i = 0; i < length; ++i) row[i] = value[i];
                        } else {
                          for (int64_t i = 0; i < length; ++i) row[i] += value[i];
                        }
                      }
                    });
}

void scale_space_accumulate_forward(Tensor rendered, std::optional<Tensor> transmittance, Tensor prediction,
                                    Tensor weight, bool first) {
  dispatch(prediction.scalar_type(), "scale_space_accumulate",
           [&](auto t) { accumulate<decltype(t)>(rendered, transmittance, prediction, weight, first); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_accumulate_forward", TORCH_BOX(&afa::scale_space_accumulate_forward));
}
