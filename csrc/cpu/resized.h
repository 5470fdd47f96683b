// A map at its own resolution, read as if it had the output's, and sums of what several of them have there.
#pragma once

#include "bilinear.h"
#include "memory.h"
#include "rows.h"

namespace afa {

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

  // The lower of the two rows that output row y reads; the upper is rows.low[y].
  int64_t bottom(int64_t y) const { return identity ? y : rows.high(y); }

  // out[i] = the value of channel c at output row y, column first + i.
  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, Acc* __restrict scratch,
           Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, c, y * columns.in + first);
      if (map.sp == 1) return widen(source, count, out);
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(source[i * map.sp]);
      return;
    }
    const int64_t from = columns.low[first], length = columns.high(first + count - 1) - from + 1;
    const T* top = map.at(n, c, rows.low[y] * columns.in + from);
    const T* bottom = map.at(n, c, rows.high(y) * columns.in + from);
    const Acc f = rows.fraction[y], not_f = 1 - f;
    const auto blend = [&](int64_t i, int64_t at) {
      scratch[i] = not_f * static_cast<Acc>(top[at]) + f * static_cast<Acc>(bottom[at]);
    };
    if (map.sp == 1)
      for (int64_t i = 0; i < length; ++i) blend(i, i);
    else
      for (int64_t i = 0; i < length; ++i) blend(i, i * map.sp);
    for (int64_t i = length; i < length + PADDING; ++i) scratch[i] = scratch[length - 1];
    resize(columns, first, count, scratch, out);
  }

  // Of row j of channel c of a map with pixel stride 1, what will be read for the `count` output columns from `first`.
  AFA_FETCHES void fetch(int64_t n, int64_t c, int64_t j, int64_t first, int64_t count) const {
    const int64_t from = identity ? first : columns.low[first];
    const int64_t to = identity ? first + count : columns.high(first + count - 1) + 1;
    for (int64_t i = from; i < to; i += LINE / sizeof(T)) prefetch(map.at(n, c, j * columns.in + i));
  }

  // Row j of channel c of a map with pixel stride 1, at the `count` output columns from `first`: in `out`, or where it
  // is.
  const Acc* across(int64_t n, int64_t c, int64_t j, int64_t first, int64_t count, Acc* __restrict scratch,
                    Acc* __restrict out) const {
    const int64_t from = identity ? first : columns.low[first];
    const int64_t length = identity ? count : columns.high(first + count - 1) - from + 1;
    const T* row = map.at(n, c, j * columns.in + from);
    if (identity) return widened(row, count, out);
    if constexpr (std::is_same_v<T, Acc>) {
      if (from + length + PADDING <= columns.in) {
        resize(columns, first, count, row, out);
        return out;
      }
    }
    widen(row, length, scratch);
    std::fill_n(scratch + length, PADDING, scratch[length - 1]);
    resize(columns, first, count, scratch, out);
    return out;
  }

  // out[c] = the value of channel c at output row y, column x. For maps with channel stride 1.
  void pixel(int64_t n, int64_t channels, int64_t y, int64_t x, Acc* __restrict out) const {
    if (identity) return widen(map.at(n, 0, y * columns.in + x), channels, out);
    const T* top = map.at(n, 0, rows.low[y] * columns.in);
    const T* bottom = map.at(n, 0, rows.high(y) * columns.in);
    const int64_t left = columns.low[x] * map.sp, right = columns.high(x) * map.sp;
    const Acc f = rows.fraction[y], not_f = 1 - f, h = columns.fraction[x], not_h = 1 - h;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = not_h * (not_f * static_cast<Acc>(top[left + c]) + f * static_cast<Acc>(bottom[left + c])) +
               h * (not_f * static_cast<Acc>(top[right + c]) + f * static_cast<Acc>(bottom[right + c]));
  }
};

// A row of one scale at output resolution, between two of its own; or a pixel's channels, between those of two pixels.
template <class Acc>
struct Between {
  const Acc *low, *high;
  Acc not_f, f;

  Acc operator()(int64_t i) const { return not_f * low[i] + f * high[i]; }
  Between times(Acc factor) const { return {low, high, not_f * factor, f * factor}; }
};

#if defined(__x86_64__) && defined(__GNUC__)

// `vectors` times sixteen elements of what is below, of which the last sixteen may be outside.
template <int vectors, bool weighted, class O>
AFA_TARGET_AVX512 inline void sum_weighted_at(__mmask16 inside, const Between<float>* rows, size_t scales,
                                              const float* weights, int64_t stride, int64_t i, bool stream, O* sum) {
  __m512 sums[vectors] = {};
  for (size_t k = 0; k < scales; ++k) {
    const Between<float> row = rows[k];
    const __m512 f = _mm512_set1_ps(row.f), not_f = _mm512_set1_ps(row.not_f);
    for (int j = 0; j < vectors; ++j) {
      const int64_t at = i + 16 * j;
      const __m512 low = _mm512_mul_ps(not_f, load_lanes(inside, row.low + at));
      const __m512 value = _mm512_fmadd_ps(f, load_lanes(inside, row.high + at), low);
      if constexpr (weighted)
        sums[j] = _mm512_fmadd_ps(load_lanes(inside, weights + k * stride + at), value, sums[j]);
      else
        sums[j] = _mm512_add_ps(value, sums[j]);
    }
  }
  for (int j = 0; j < vectors; ++j) store_lanes(inside, stream, sums[j], sum + i + 16 * j);
}
template <bool weighted, class O>
AFA_TARGET_AVX512 inline void sum_weighted_lanes(const Between<float>* rows, size_t scales, const float* weights,
                                                 int64_t stride, int64_t length, bool stream, O* sum) {
  constexpr int vectors = 4;  // whose sums stay in registers
  int64_t i = 0;
  for (; i + 16 * vectors <= length; i += 16 * vectors)
    sum_weighted_at<vectors, weighted>(0xffff, rows, scales, weights, stride, i, stream, sum);
  for (; i < length; i += 16)
    sum_weighted_at<1, weighted>(first_lanes(length - i), rows, scales, weights, stride, i, stream, sum);
}
template <class O>
[[gnu::noinline]] AFA_TARGET_AVX512 void sum_weighted_avx512(const std::vector<Between<float>>& rows,
                                                             const float* weights, int64_t stride, int64_t length,
                                                             bool stream, O* sum) {
  if (weights)
    sum_weighted_lanes<true>(rows.data(), rows.size(), weights, stride, length, stream, sum);
  else
    sum_weighted_lanes<false>(rows.data(), rows.size(), nullptr, 0, length, stream, sum);
}

#endif

// sum[i] = or, but for the first, += term(i).
template <class Acc, class F>
inline void add_row(bool first, int64_t length, const F& term, Acc* __restrict sum) {
  if (first)
    for (int64_t i = 0; i < length; ++i) sum[i] = term(i);
  else
    for (int64_t i = 0; i < length; ++i) sum[i] += term(i);
}

// sum[i] = the sum over the scales of weights[k * stride + i] * rows[k](i), or of these alone if the weights are null.
template <class Acc>
void sum_weighted(const std::vector<Between<Acc>>& rows, const Acc* weights, int64_t stride, int64_t length,
                  Acc* __restrict sum) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512) return sum_weighted_avx512(rows, weights, stride, length, false, sum);
#endif
  for (size_t k = 0; k < rows.size(); ++k) {
    const Between<Acc> row = rows[k];
    const Acc* w = weights + k * stride;
    if (weights)
      add_row(k == 0, length, [=](int64_t i) { return w[i] * row(i); }, sum);
    else
      add_row(k == 0, length, row, sum);
  }
}

// sums[i] += across * g[i] * value(i); returns the sum of along[i] * g[i] * value(i).
template <class Acc>
Acc sum_products(const Acc* g, const Between<Acc> value, const Acc* along, Acc across, int64_t length,
                 Acc* __restrict sums) {
  Acc total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) {
    const Acc product = g[i] * value(i);
    sums[i] += across * product;
    total += along[i] * product;
  }
  return total;
}

// The sum of g[i] * value(i).
template <class Acc>
Acc sum_products(const Acc* g, const Between<Acc> value, int64_t length) {
  Acc total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) total += g[i] * value(i);
  return total;
}

}  // namespace afa
