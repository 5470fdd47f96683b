// scale_space_render on the CPU: out[p] = sum_k m_k[p] up(pred_k)[p], bilinear at output resolution.
//
// m_k is the k-th weight, resized ("weights"), or what compositing the resized opacities gives ("opacities"). Only the
// K maps at attention resolution are stored; everything else is resized a row at a time: vertically over the inputs of
// the row, then horizontally. The backward gathers: whoever owns a low-resolution row collects from the output rows
// that read it, so no two threads write one address and every sum has a fixed order.
#include "render.h"

namespace afa {
namespace {

template <class T, class O>
void forward(const std::vector<Tensor>& predictions, const Tensor& logits, const std::string& phi, bool opaque_last,
             bool resize_opacities, const Tensor& out) {
  using Acc = acc_t<T>;
  const int64_t channels = out.size(1), height = out.size(2), width = out.size(3);
  const Maps<Acc> maps(logits, phi, opaque_last, resize_opacities);
  const auto o = as_map<O>(out, "out");
  const bool planar = o.sp == 1;
  back_with_huge_pages(out);
  render(resize_all<T>(predictions, height, width), maps, channels, height, width, planar,
         [&](int64_t n, int64_t y, int64_t first, int64_t count, int64_t r, const Acc* values) {
           O* __restrict row = o.at(n, planar ? r : 0, y * width + first + (planar ? 0 : r));
           for (int64_t i = 0; i < (planar ? count : channels); ++i) row[i] = static_cast<O>(values[i]);
         });
}

// dL/dm_k at output resolution, (N, K, H, W): the sum over C of g up(pred_k); for opacities carried on to dL/dalpha_k.
template <class T, class O>
std::unique_ptr<acc_t<T>[]> map_gradients(const Map<const O>& g, int64_t channels, const Resized<acc_t<T>>& map,
                                          const Maps<acc_t<T>>& maps, const std::vector<Resized<T>>& scales) {
  using Acc = acc_t<T>;
  const int64_t height = map.rows.out, width = map.columns.out, count_all = maps.scales * height * width;
  std::unique_ptr<Acc[]> result(new Acc[maps.batch * count_all]);
  const bool planar = g.sp == 1;
  const int64_t scratch_row = widest(scales, map.scratch()), value_row = std::max(COLUMNS, channels);
  const int64_t size = (3 * maps.scales + 2) * COLUMNS + scratch_row + value_row;

  for_each_row<Acc>(
      maps.batch, height, width, size, [&](int64_t n, int64_t y, int64_t first, int64_t count, Acc* scratch) {
        Acc *grads = scratch, *alphas = grads + maps.scales * COLUMNS, *through = alphas + maps.scales * COLUMNS;
        Acc *behind = through + (maps.scales + 1) * COLUMNS, *source = behind + COLUMNS, *value = source + scratch_row;
        for (int64_t k = 0; k < maps.scales; ++k) {
          Acc* sum = grads + k * COLUMNS;
          for (int64_t i = 0; i < count; ++i) sum[i] = 0;
          if (planar) {
            for (int64_t c = 0; c < channels; ++c) {
              scales[k].row(n, c, y, first, count, source, value);
              const O* row = g.at(n, c, y * width + first);
              for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<Acc>(row[i]) * value[i];
            }
          } else {
            for (int64_t i = 0; i < count; ++i) {
              scales[k].pixel(n, channels, y, first + i, value);
              const O* row = g.at(n, 0, y * width + first + i);
              for (int64_t c = 0; c < channels; ++c) sum[i] += static_cast<Acc>(row[c]) * value[c];
            }
          }
        }
        if (maps.opacities) {
          for (int64_t k = 0; k < maps.scales; ++k) map.row(n, k, y, first, count, source, alphas + k * COLUMNS);
          maps.composite_backward(count, alphas, grads, through, behind);
        }
        for (int64_t k = 0; k < maps.scales; ++k)
          std::copy_n(grads + k * COLUMNS, count, result.get() + n * count_all + (k * height + y) * width + first);
      });
  return result;
}

// dL/dlogits: the maps' gradients gathered to attention resolution, then the backward of the weights or opacities.
template <class Acc>
void logits_backward(const Tensor& logits, const std::string& phi, const Maps<Acc>& maps, const Resized<Acc>& map,
                     const Acc* map_grads, const Tensor& grad_logits) {
  const int64_t scales = maps.scales, width = maps.width, out_height = map.rows.out, out_width = map.columns.out;
  const Transposed<Acc> rows(map.rows, map.identity), columns(map.columns, map.identity);
  const AnyMap y(logits, "logits"), dy(grad_logits, "grad_logits");
  torch::stable::parallel_for(0, maps.batch * maps.height, 4, [&](int64_t begin, int64_t end) {
    std::vector<Acc> scratch((4 * scales + 2) * width + out_width);
    Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * width, *t_rows = w_rows + scales * width;
    Acc *g_rows = t_rows + scales * width, *behind = g_rows + scales * width, *depth_sum = behind + width;
    Acc* sum = depth_sum + width;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / maps.height, j = unit % maps.height;
      for (int64_t k = 0; k < scales; ++k) y.read_pixels(n, k, j * width, width, y_rows + k * width);
      dispatch_phi(phi, [&](auto p) {
        using Phi = decltype(p);
        vectorized([&] {
          for (int64_t k = 0; k < scales; ++k) {
            const Acc* grads = map_grads + ((n * scales + k) * out_height + rows.first[j]) * out_width;
            for (int64_t i = 0; i < out_width; ++i) sum[i] = 0;
            for (int64_t r = 0; r < rows.count(j); ++r, grads += out_width) {
              const Acc v = rows.coefficient[rows.begin[j] + r];
              for (int64_t i = 0; i < out_width; ++i) sum[i] += v * grads[i];
            }
            for (int64_t i = 0; i < width; ++i) {
              const Acc *h = columns.coefficient.data() + columns.begin[i], *s = sum + columns.first[i];
              Acc total = 0;
              for (int64_t x = 0; x < columns.count(i); ++x) total += h[x] * s[x];
              g_rows[k * width + i] = total;
            }
          }
          if (maps.opacities) {
            for (int64_t i = 0; i < scales * width; ++i)
              g_rows[i] = Phi::backward(y_rows[i], g_rows[i] * exp(-Phi::depth(y_rows[i])));
          } else {
            for (int64_t i = 0; i < width; ++i) behind[i] = 0;
            composite_rows<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, depth_sum);
            composite_rows_backward<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, g_rows,
                                         behind);
          }
        });
      });
      for (int64_t k = 0; k < scales; ++k) dy.write_pixels(n, k, j * width, width, g_rows + k * width);
    }
  });
}

// dL/dpred_k: the owner of row j sums v(y, j) m_k[y] g[y] over the output rows y that read it, then gathers columns.
template <class T, class O>
void prediction_backward(const Map<const O>& g, int64_t channels, int64_t k, const Resized<T>& scale,
                         const Resized<acc_t<T>>& map, const Maps<acc_t<T>>& maps, const Tensor& grad_prediction) {
  using Acc = acc_t<T>;
  const auto d = as_map<T>(grad_prediction, "grad_predictions");
  const bool planar = g.sp == 1;
  const int64_t height = scale.rows.in, width = scale.columns.in, out_width = scale.columns.out;
  const Transposed<Acc> rows(scale.rows, scale.identity), columns(scale.columns, scale.identity);
  torch::stable::parallel_for(0, maps.batch * height, 1, [&](int64_t begin, int64_t end) {
    // `sum` is (channels, out_width) or (out_width, channels), as the layout has it
    std::vector<Acc> scratch(channels * out_width + maps.scales * COLUMNS + COLUMNS + map.scratch() + channels);
    Acc *sum = scratch.data(), *m = sum + channels * out_width, *transmittance = m + maps.scales * COLUMNS;
    Acc *source = transmittance + COLUMNS, *total = source + map.scratch();
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / height, j = unit % height;
      vectorized([&] {
        for (int64_t i = 0; i < channels * out_width; ++i) sum[i] = 0;
        for (int64_t r = 0; r < rows.count(j); ++r) {
          const int64_t y = rows.first[j] + r;
          const Acc v = rows.coefficient[rows.begin[j] + r];
          for (int64_t first = 0; first < out_width; first += COLUMNS) {
            const int64_t count = std::min(COLUMNS, out_width - first);
            for (int64_t i = maps.opacities ? 0 : k; i <= k; ++i)
              map.row(n, i, y, first, count, source, m + i * COLUMNS);
            maps.composite(count, m, transmittance);
            const Acc* weight = m + k * COLUMNS;
            for (int64_t o = 0; o < (planar ? channels : count); ++o) {
              if (planar) {
                const O* row = g.at(n, o, y * out_width + first);
                Acc* __restrict s = sum + o * out_width + first;
                for (int64_t i = 0; i < count; ++i) s[i] += v * weight[i] * static_cast<Acc>(row[i]);
              } else {
                const O* row = g.at(n, 0, y * out_width + first + o);
                Acc* __restrict s = sum + (first + o) * channels;
                const Acc scaled = v * weight[o];
                for (int64_t c = 0; c < channels; ++c) s[c] += scaled * static_cast<Acc>(row[c]);
              }
            }
          }
        }
        for (int64_t o = 0; o < (planar ? channels : 1); ++o) {
          for (int64_t i = 0; i < width; ++i) {
            const Acc* h = columns.coefficient.data() + columns.begin[i];
            const int64_t x = columns.first[i], count = columns.count(i);
            T* result = d.at(n, o, j * width + i);
            if (planar) {
              Acc value = 0;
              for (int64_t q = 0; q < count; ++q) value += h[q] * sum[o * out_width + x + q];
              *result = static_cast<T>(value);
            } else {
              for (int64_t c = 0; c < channels; ++c) total[c] = 0;
              for (int64_t q = 0; q < count; ++q)
                for (int64_t c = 0; c < channels; ++c) total[c] += h[q] * sum[(x + q) * channels + c];
              for (int64_t c = 0; c < channels; ++c) result[c] = static_cast<T>(total[c]);
            }
          }
        }
      });
    }
  });
}

template <class T, class O>
void backward(const Tensor& grad, const std::vector<Tensor>& predictions, const Tensor& logits, const std::string& phi,
              bool opaque_last, bool resize_opacities, const std::vector<Tensor>& grad_predictions,
              const std::vector<bool>& needed, const std::optional<Tensor>& grad_logits) {
  const int64_t channels = grad.size(1), height = grad.size(2), width = grad.size(3);
  const auto g = as_map<const O>(grad, "grad");
  const Maps<acc_t<T>> maps(logits, phi, opaque_last, resize_opacities);
  const Resized<acc_t<T>> map = maps.resized(height, width);
  const std::vector<Resized<T>> scales = resize_all<T>(predictions, height, width);
  if (grad_logits) {
    const auto map_grads = map_gradients<T, O>(g, channels, map, maps, scales);
    logits_backward(logits, phi, maps, map, map_grads.get(), *grad_logits);
  }
  auto next = grad_predictions.begin();
  for (size_t k = 0; k < scales.size(); ++k)
    if (needed[k]) prediction_backward<T, O>(g, channels, static_cast<int64_t>(k), scales[k], map, maps, *next++);
}

// Calls body(T{}, O{}) with the element types of the predictions and of the rendering, which is T or float32.
template <class F>
void dispatch_types(ScalarType predictions, ScalarType rendering, const F& body) {
  dispatch(predictions, "scale_space_render", [&](auto t) {
    if (rendering == predictions) return body(t, t);
    STD_TORCH_CHECK(rendering == ScalarType::Float, "scale_space_render: the result must be float32 or as predictions");
    if constexpr (!std::is_same_v<decltype(t), double>) body(t, float{});
  });
}

void scale_space_render_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, Tensor out) {
  dispatch_types(predictions.at(0).scalar_type(), out.scalar_type(), [&](auto t, auto o) {
    forward<decltype(t), decltype(o)>(predictions, logits, phi, opaque_last, resize_opacities, out);
  });
}

void scale_space_render_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, std::string phi,
                                 bool opaque_last, bool resize_opacities, std::vector<Tensor> grad_predictions,
                                 std::vector<bool> needed, std::optional<Tensor> grad_logits) {
  dispatch_types(predictions.at(0).scalar_type(), grad.scalar_type(), [&](auto t, auto o) {
    backward<decltype(t), decltype(o)>(grad, predictions, logits, phi, opaque_last, resize_opacities, grad_predictions,
                                       needed, grad_logits);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_render_forward", TORCH_BOX(&afa::scale_space_render_forward));
  m.impl("scale_space_render_backward", TORCH_BOX(&afa::scale_space_render_backward));
}
