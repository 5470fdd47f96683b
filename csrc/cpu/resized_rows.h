// Rows of resized maps in NCHW: the two of a map that an output row lies between, and sums over the maps.
#pragma once

#include "resized.h"

namespace afa {

// Channels of one scale: the two of their rows that were read last, resized to columns of the output. Output rows that
// follow each other mostly lie between the same two.
template <class T>
class Neighbours {
 public:
  using Acc = acc_t<T>;

  static int64_t size(int64_t channels, int64_t columns) { return 2 * channels * columns; }

  // Of at most so many channels and columns: `rows` has room for size() values, and so many columns are `zeros`.
  Neighbours(const Resized<T>& scale, int64_t channels, int64_t columns, const Acc* zeros, Acc* rows)
      : scale_(&scale), channels_(channels), columns_(columns), zeros_(zeros), rows_(rows), values_(2 * channels) {}

  // The channels from c and the columns from `first` of image n, for output rows from y to before `end`.
  void begin(int64_t n, int64_t c, int64_t first, int64_t count, int64_t y, int64_t end) {
    n_ = n, c_ = c, first_ = first, count_ = count;
    first_row_ = scale_->identity ? y : scale_->rows.low[y], last_row_ = scale_->bottom(end - 1);
    held_[0] = held_[1] = -1;
  }

  void move_to(int64_t y, Acc* scratch) {
    f_ = scale_->identity ? Acc(0) : scale_->rows.fraction[y];
    top_ = hold(scale_->identity ? y : scale_->rows.low[y], scratch);
    bottom_ = hold(scale_->bottom(y), scratch);
  }

  // Columns from first + i of channel c_ + c at the output row where it is.
  Between<Acc> at(int64_t c = 0, int64_t i = 0) const {
    const Acc *const *values = &values_[2 * c], *top = values[top_] + i;
    if (scale_->identity) return {top, zeros_, 1, 0};  // no part of a neighbour, which may be infinite
    return {top, values[bottom_] + i, 1 - f_, f_};
  }

 private:
  int64_t hold(int64_t j, Acc* scratch) {
    const int64_t slot = j & 1;
    for (int64_t c = 0; c < channels_ && held_[slot] != j; ++c) {
      const int64_t at = 2 * c + slot;
      fetch_after(c_ + c, j);
      values_[at] = scale_->across(n_, c_ + c, j, first_, count_, scratch, rows_ + at * columns_);
    }
    held_[slot] = j;
    return slot;
  }

  // What is read after row j of channel c, which is far in memory: that row of the next of several channels; of one
  // channel the next row, and after the last the two with which the next channel begins.
  void fetch_after(int64_t c, int64_t j) const {
    if (channels_ > 1) return scale_->fetch(n_, c + 1, j, first_, count_);
    if (j < last_row_) return scale_->fetch(n_, c, j + 1, first_, count_);
    for (int64_t row = first_row_; row <= std::min(first_row_ + 1, last_row_); ++row)
      scale_->fetch(n_, c + 1, row, first_, count_);
  }

  const Resized<T>* scale_;
  int64_t channels_, columns_;
  const Acc* zeros_;
  Acc* rows_;
  std::vector<const Acc*> values_;
  int64_t n_, c_, first_, count_, first_row_, last_row_, held_[2], top_, bottom_;
  Acc f_;
};

// Those of several scales, of which `rows` has room for all.
template <class T, class Acc = acc_t<T>>
std::vector<Neighbours<T>> neighbours_of(const std::vector<Resized<T>>& scales, int64_t channels, int64_t columns,
                                         const Acc* zeros, Acc* rows) {
  std::vector<Neighbours<T>> all;
  for (const Resized<T>& scale : scales) {
    all.emplace_back(scale, channels, columns, zeros, rows);
    rows += Neighbours<T>::size(channels, columns);
  }
  return all;
}

#if defined(__x86_64__) && defined(__GNUC__)

// `vectors` times sixteen elements of what is below, of which the last sixteen may be outside.
template <int vectors, class O>
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
      sums[j] = _mm512_fmadd_ps(load_lanes(inside, weights + k * stride + at), value, sums[j]);
    }
  }
  for (int j = 0; j < vectors; ++j) store_lanes(inside, stream, sums[j], sum + i + 16 * j);
}
template <class O>
[[gnu::noinline]] AFA_TARGET_AVX512 void sum_weighted_avx512(const std::vector<Between<float>>& rows,
                                                             const float* weights, int64_t stride, int64_t length,
                                                             bool stream, O* sum) {
  constexpr int vectors = 4;  // whose sums stay in registers
  int64_t i = 0;
  for (; i + 16 * vectors <= length; i += 16 * vectors)
    sum_weighted_at<vectors>(0xffff, rows.data(), rows.size(), weights, stride, i, stream, sum);
  for (; i < length; i += 16)
    sum_weighted_at<1>(first_lanes(length - i), rows.data(), rows.size(), weights, stride, i, stream, sum);
}

#endif

// sum[i] = the sum over the scales of weights[k * stride + i] * rows[k](i).
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
    add_row(k == 0, length, [=](int64_t i) { return w[i] * row(i); }, sum);
  }
}

}  // namespace afa
