// scale_space_render on the CPU: out[p] = sum_k m_k[p] up(pred_k)[p], bilinear at output resolution.
//
// m_k is the k-th weight, resized ("weights"), or what compositing the resized opacities gives ("opacities"). Only the
// K maps at attention resolution are stored; everything else is resized a row at a time: vertically over the inputs of
// the row, then horizontally. The backward gathers: whoever owns a low-resolution row collects from the output rows
// that read it, so no two threads write one address and every sum has a fixed order.
#include <memory>

#include "resize.h"
#include "scale_space.h"

namespace afa {
namespace {

constexpr int64_t ROWS = 16, COLUMNS = 512;  // of the output, in one unit of work

// One map or prediction at its own resolution, read as if it had the output's.
template <class T>
struct Resized {
  using Acc = acc_t<T>;
  Map<const T> map;
  Axis<Acc> rows, columns;
  bool identity;

  Resized(Map<const T> m, int64_t height, int64_t width, int64_t out_height, int64_t out_width)
      : map(m),
        rows(height, out_height),
        columns(width, out_width),
        identity(height == out_height && width == out_width) {}

  int64_t scratch() const { return columns.in + PADDING; }

  // out[i] = the value of channel c at output row y, column first + i. For maps with pixel stride 1.
  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, Acc* __restrict scratch,
           Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, c, y * columns.in + first);
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(source[i]);
      return;
    }
    const int64_t from = columns.low[first], length = columns.high(first + count - 1) - from + 1;
    const T* top = map.at(n, c, rows.low[y] * columns.in + from);
    const T* bottom = map.at(n, c, rows.high(y) * columns.in + from);
    const Acc f = rows.fraction[y], not_f = 1 - f;
    for (int64_t i = 0; i < length; ++i)
      scratch[i] = not_f * static_cast<Acc>(top[i]) + f * static_cast<Acc>(bottom[i]);
    for (int64_t i = length; i < length + PADDING; ++i) scratch[i] = scratch[length - 1];
    resize(columns, first, count, scratch, out);
  }

  // out[c] = the value of channel c at output row y, column x. For maps with channel stride 1.
  void pixel(int64_t n, int64_t channels, int64_t y, int64_t x, Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, 0, y * columns.in + x);
      for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<Acc>(source[c]);
      return;
    }
    const T* top = map.at(n, 0, rows.low[y] * columns.in);
    const T* bottom = map.at(n, 0, rows.high(y) * columns.in);
    const int64_t left = columns.low[x] * map.sp, right = columns.high(x) * map.sp;
    const Acc f = rows.fraction[y], not_f = 1 - f, h = columns.fraction[x], not_h = 1 - h;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = not_h * (not_f * static_cast<Acc>(top[left + c]) + f * static_cast<Acc>(bottom[left + c])) +
               h * (not_f * static_cast<Acc>(top[right + c]) + f * static_cast<Acc>(bottom[right + c]));
  }
};

// The K maps (N, K, h, w) at attention resolution, weights or opacities, and what they are at a row of the output.
template <class Acc>
struct Maps {
  int64_t batch, scales, height, width;
  bool opacities, opaque_last;
  std::unique_ptr<Acc[]> data;

  Maps(const Tensor& logits, const std::string& phi, bool last, bool resize_opacities)
      : batch(logits.size(0)),
        scales(logits.size(1)),
        height(logits.size(2)),
        width(logits.size(3)),
        opacities(resize_opacities),
        opaque_last(last),
        data(new Acc[batch * scales * height * width]) {
    const AnyMap y(logits, "logits");
    torch::stable::parallel_for(0, batch * height, 8, [&](int64_t begin, int64_t end) {
      std::vector<Acc> scratch((3 * scales + 1) * width);
      Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * width, *t_rows = w_rows + scales * width;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / height, row = unit % height;
        for (int64_t k = 0; k < scales; ++k) y.read_pixels(n, k, row * width, width, y_rows + k * width);
        dispatch_phi(phi, [&](auto p) {
          using Phi = decltype(p);
          vectorized([&] {
            if (opacities) {
              for (int64_t i = 0; i < scales * width; ++i) w_rows[i] = -expm1(-Phi::depth(y_rows[i]));
            } else {
              composite_rows<Phi>(scales, opaque_last, width, width, y_rows, w_rows, t_rows, t_rows + scales * width);
            }
          });
        });
        for (int64_t k = 0; k < scales; ++k)
          std::copy_n(w_rows + k * width, width, data.get() + ((n * scales + k) * height + row) * width);
      }
    });
  }

  Resized<Acc> resized(int64_t out_height, int64_t out_width) const {
    return {{data.get(), scales * height * width, height * width, 1}, height, width, out_height, out_width};
  }

  // T alpha_k and T (1 - alpha_k), in place: rows of opacities become rows of weights.
  void composite(int64_t count, Acc* __restrict rows, Acc* __restrict transmittance) const {
    if (!opacities) return;
    for (int64_t i = 0; i < count; ++i) transmittance[i] = 1;
    for (int64_t k = 0; k < scales; ++k, rows += COLUMNS) {
      const bool opaque = opaque_last && k == scales - 1;
      for (int64_t i = 0; i < count; ++i) {
        const Acc alpha = opaque ? Acc(1) : rows[i];
        rows[i] = transmittance[i] * alpha;
        transmittance[i] *= 1 - alpha;
      }
    }
  }

  // Given dL/dw_k in `grads`, dL/dalpha_k = T_k (G_k - S_{k+1}), S_k = alpha_k G_k + (1 - alpha_k) S_{k+1}, in place.
  // `alphas` and `behind` are used up.
  void composite_backward(int64_t count, Acc* __restrict alphas, Acc* __restrict grads, Acc* __restrict through,
                          Acc* __restrict behind) const {
    for (int64_t i = 0; i < count; ++i) {
      through[i] = 1;
      behind[i] = 0;
    }
    for (int64_t k = 0; k < scales; ++k)
      for (int64_t i = 0; i < count; ++i) {  // through row k is T_k
        const Acc alpha = opaque_last && k == scales - 1 ? Acc(1) : alphas[k * COLUMNS + i];
        through[(k + 1) * COLUMNS + i] = through[k * COLUMNS + i] * (1 - alpha);
      }
    for (int64_t k = scales - 1; k >= 0; --k) {
      const bool opaque = opaque_last && k == scales - 1;
      for (int64_t i = 0; i < count; ++i) {
        const Acc alpha = opaque ? Acc(1) : alphas[k * COLUMNS + i], upstream = grads[k * COLUMNS + i];
        grads[k * COLUMNS + i] = opaque ? Acc(0) : through[k * COLUMNS + i] * (upstream - behind[i]);
        behind[i] = alpha * upstream + (1 - alpha) * behind[i];
      }
    }
  }
};

template <class T>
std::vector<Resized<T>> resize_all(const std::vector<Tensor>& predictions, int64_t height, int64_t width) {
  std::vector<Resized<T>> all;
  for (const Tensor& p : predictions)
    all.emplace_back(as_map<const T>(p, "predictions"), p.size(2), p.size(3), height, width);
  return all;
}

template <class T>
int64_t widest(const std::vector<Resized<T>>& all, int64_t least) {
  for (const auto& r : all) least = std::max(least, r.scratch());
  return least;
}

// visit(n, y, first column, columns, scratch) for every piece of a row of a (batch, height, width) output, in parallel;
// `scratch` is a buffer of `size` values of the thread's own.
template <class Acc, class F>
void for_each_row(int64_t batch, int64_t height, int64_t width, int64_t size, const F& visit) {
  const int64_t bands = ceil_div(height, ROWS), pieces = ceil_div(width, COLUMNS);
  torch::stable::parallel_for(0, batch * bands * pieces, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Acc[]> scratch(new Acc[size]);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / (bands * pieces), band = unit / pieces % bands, first = unit % pieces * COLUMNS;
      const int64_t last_row = std::min(height, (band + 1) * ROWS);
      vectorized([&] {
        for (int64_t y = band * ROWS; y < last_row; ++y)
          visit(n, y, first, std::min(COLUMNS, width - first), scratch.get());
      });
    }
  });
}

template <class T, class O>
void forward(const std::vector<Tensor>& predictions, const Tensor& logits, const std::string& phi, bool opaque_last,
             bool resize_opacities, const Tensor& out) {
  using Acc = acc_t<T>;
  const int64_t batch = out.size(0), channels = out.size(1), height = out.size(2), width = out.size(3);
  const Maps<Acc> maps(logits, phi, opaque_last, resize_opacities);
  const Resized<Acc> map = maps.resized(height, width);
  const std::vector<Resized<T>> scales = resize_all<T>(predictions, height, width);
  const auto o = as_map<O>(out, "out");
  const bool planar = o.sp == 1;
  back_with_huge_pages(out);
  const int64_t scratch_row = widest(scales, map.scratch()), result_row = std::max(COLUMNS, channels);
  const int64_t size = maps.scales * COLUMNS + scratch_row + 2 * result_row;

  for_each_row<Acc>(batch, height, width, size, [&](int64_t n, int64_t y, int64_t first, int64_t count, Acc* scratch) {
    Acc *m = scratch, *source = m + maps.scales * COLUMNS, *value = source + scratch_row, *sum = value + result_row;
    for (int64_t k = 0; k < maps.scales; ++k) map.row(n, k, y, first, count, source, m + k * COLUMNS);
    maps.composite(count, m, value);
    const int64_t rows = planar ? channels : count, length = planar ? count : channels;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < length; ++i) sum[i] = 0;
      for (int64_t k = 0; k < maps.scales; ++k) {
        const Acc* weight = m + k * COLUMNS;
        if (planar) {
          scales[k].row(n, r, y, first, count, source, value);
          for (int64_t i = 0; i < length; ++i) sum[i] += weight[i] * value[i];
        } else {
          scales[k].pixel(n, channels, y, first + r, value);
          for (int64_t i = 0; i < length; ++i) sum[i] += weight[r] * value[i];
        }
      }
      O* __restrict row = o.at(n, planar ? r : 0, y * width + first + (planar ? 0 : r));
      for (int64_t i = 0; i < length; ++i) row[i] = static_cast<O>(sum[i]);
    }
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
