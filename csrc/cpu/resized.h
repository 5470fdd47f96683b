// A map at its own resolution, read as if it had the output's.
#pragma once

#include "bilinear.h"
#include "memory.h"
#include "rows.h"

namespace afa {

// One map or prediction; a reader goes by output pixels.
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
  void fetch(int64_t n, int64_t c, int64_t j, int64_t first, int64_t count) const {
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

// sum[i] = or, but for the first, += term(i).
template <class Acc, class F>
inline void add_row(bool first, int64_t length, const F& term, Acc* __restrict sum) {
  if (first)
    for (int64_t i = 0; i < length; ++i) sum[i] = term(i);
  else
    for (int64_t i = 0; i < length; ++i) sum[i] += term(i);
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
