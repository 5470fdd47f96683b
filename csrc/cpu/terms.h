// The terms whose sum a row of a fusion is, maps weighed by a value along the row times a value across the rows, and
// their gradients.
//
// With AVX-512 narrow numbers are converted in registers, what is streamed leaves from there, not through the cache,
// and two rows at a time share what is read along them.
#pragma once

#include "rows.h"

namespace afa {

// Rows of a map, one stride apart, from one of them on, and each from an element on.
template <class T>
struct Rows {
  T* first;  // null, if there are none
  int64_t stride;

  T* row(int64_t r) const { return first ? first + r * stride : nullptr; }
};

template <class T>
Rows<T> rows_at(const Layout& layout, const Map<T>& map, int64_t n, int64_t row, int64_t first) {
  return {layout.at(map, n, row, first), layout.channels_last ? map.sp : map.sc};
}

// along[i] * across[r] * rows.row(r)[i]
template <class T>
struct Term {
  Rows<const T> rows;
  const acc_t<T>* along;
  const acc_t<T>* across;
};

template <class T, int count>
using Terms = std::array<Term<T>, count>;

#if defined(__x86_64__) && defined(__GNUC__)

// step(inside, stream, i) for the sixteen elements from i on, up to the last of a row that is stored at `out`.
template <class F>
AFA_TARGET_AVX512 inline void for_each_sixteen(F& step, int64_t first, int64_t last, bool stream) {
  for (int64_t i = first; i < last; i += 16) step(first_lanes(last - i), stream, i);
}
template <class F, class O>
AFA_TARGET_AVX512 inline void for_each_sixteen(F& step, int64_t length, bool stream, const O* out) {
  if (!stream) return for_each_sixteen(step, 0, length, false);
  constexpr int64_t of_line = LINE / sizeof(O);
  const int64_t head = std::min(length, before_line(out));
  const int64_t tail = head + (length - head) / of_line * of_line;
  for_each_sixteen(step, 0, head, false);  // what shares a line with another row
  for_each_sixteen(step, head, tail, true);
  for_each_sixteen(step, tail, length, false);
}

// Whether all rows begin at the same place of a line, and those of two maps as well.
template <class T>
bool whole_lines(const Rows<T>& rows) {
  return rows.stride * sizeof(T) % LINE == 0;
}
template <class T>
bool in_step(const Rows<T>& a, const Rows<T>& b) {
  return a.stride == b.stride &&
         (reinterpret_cast<uintptr_t>(a.first) - reinterpret_cast<uintptr_t>(b.first)) % LINE == 0;
}

// `at_once` rows of terms: what is along them is read once.
template <class T, int count, int at_once>
struct RowsOfTerms {
  const T* rows[count][at_once];
  const float* along[count];
  __m512 across[count][at_once];

  AFA_TARGET_AVX512 RowsOfTerms(const Terms<T, count>& terms, int64_t r) {
    for (int k = 0; k < count; ++k) {
      along[k] = terms[k].along;
      for (int j = 0; j < at_once; ++j) {
        rows[k][j] = terms[k].rows.row(r + j);
        across[k][j] = _mm512_set1_ps(terms[k].across[r + j]);
      }
    }
  }
};

template <class T, int count, class O, int at_once>
struct SumOfTerms {
  RowsOfTerms<T, count, at_once> terms;
  const float* before[at_once];
  O* out[at_once];

  AFA_TARGET_AVX512 SumOfTerms(const Terms<T, count>& terms, const Rows<const float>& before, const Rows<O>& out,
                               int64_t r)
      : terms(terms, r) {
    for (int j = 0; j < at_once; ++j) {
      this->before[j] = before.row(r + j);
      this->out[j] = out.row(r + j);
    }
  }

  AFA_TARGET_AVX512 inline void operator()(__mmask16 inside, bool stream, int64_t i) const {
    __m512 along[count];
    for (int k = 0; k < count; ++k) along[k] = load_lanes(inside, terms.along[k] + i);
    for (int j = 0; j < at_once; ++j) {
      __m512 sum = before[j] ? load_lanes(inside, before[j] + i) : _mm512_setzero_ps();
      for (int k = 0; k < count; ++k) {
        const __m512 weight = _mm512_mul_ps(along[k], terms.across[k][j]);
        sum = _mm512_fmadd_ps(weight, load_lanes(inside, terms.rows[k][j] + i), sum);
      }
      store_lanes(inside, stream, sum, out[j] + i);
    }
  }
};

template <class T, int count, class O>
[[gnu::noinline]] AFA_TARGET_AVX512 void sum_terms_avx512(const Terms<T, count>& terms, const Rows<const float>& before,
                                                          int64_t rows, int64_t length, bool stream,
                                                          const Rows<O>& out) {
  int64_t r = 0;
  if (!stream || whole_lines(out)) {
    for (; r + 2 <= rows; r += 2) {
      SumOfTerms<T, count, O, 2> step(terms, before, out, r);
      for_each_sixteen(step, length, stream, out.row(r));
    }
  }
  for (; r < rows; ++r) {
    SumOfTerms<T, count, O, 1> step(terms, before, out, r);
    for_each_sixteen(step, length, stream, out.row(r));
  }
}

template <class T, int count, int at_once>
struct GradientsOfTerms {
  RowsOfTerms<T, count, at_once> terms;
  const T* g[at_once];
  T* grads[count][at_once];
  float* sums;
  __m512 along[at_once];

  AFA_TARGET_AVX512 GradientsOfTerms(const Rows<const T>& g, const Terms<T, count>& terms,
                                     const std::array<Rows<T>, count>& grads, float* sums, int64_t r)
      : terms(terms, r), sums(sums) {
    for (int j = 0; j < at_once; ++j) {
      this->g[j] = g.row(r + j);
      along[j] = _mm512_setzero_ps();
      for (int k = 0; k < count; ++k) this->grads[k][j] = grads[k].row(r + j);
    }
  }

  AFA_TARGET_AVX512 inline void operator()(__mmask16 inside, bool stream, int64_t i) {
    __m512 weights[count];
    for (int k = 0; k < count; ++k) weights[k] = load_lanes(inside, terms.along[k] + i);
    __m512 sum = sums ? load_lanes(inside, sums + i) : _mm512_setzero_ps();
    for (int j = 0; j < at_once; ++j) {
      const __m512 grad = load_lanes(inside, g[j] + i);
      for (int k = 0; k < count; ++k) {
        const __m512 across = terms.across[k][j];
        if (sums) {
          const __m512 product = _mm512_mul_ps(grad, load_lanes(inside, terms.rows[k][j] + i));
          sum = k == 0 ? _mm512_fmadd_ps(across, product, sum) : _mm512_fnmadd_ps(across, product, sum);
          along[j] =
              k == 0 ? _mm512_fmadd_ps(weights[k], product, along[j]) : _mm512_fnmadd_ps(weights[k], product, along[j]);
        }
        if (grads[k][j])
          store_lanes(inside, stream, _mm512_mul_ps(_mm512_mul_ps(weights[k], across), grad), grads[k][j] + i);
      }
    }
    if (sums) store_lanes(inside, false, sum, sums + i);
  }
};

template <class T, int count, int at_once>
AFA_TARGET_AVX512 inline void differentiate_at_once(const Rows<const T>& g, const Terms<T, count>& terms, int64_t r,
                                                    int64_t length, bool stream,
                                                    const std::array<Rows<T>, count>& grads, const T* out, float* sums,
                                                    float* of_rows) {
  GradientsOfTerms<T, count, at_once> step(g, terms, grads, sums, r);
  for_each_sixteen(step, length, stream, out);
  for (int j = 0; j < at_once; ++j) of_rows[r + j] = _mm512_reduce_add_ps(step.along[j]);
}

template <class T, int count>
[[gnu::noinline]] AFA_TARGET_AVX512 void differentiate_avx512(const Rows<const T>& g, const Terms<T, count>& terms,
                                                              int64_t rows, int64_t length, bool stream,
                                                              const std::array<Rows<T>, count>& grads, float* sums,
                                                              float* of_rows) {
  Rows<T> out{nullptr, 0};  // one of those that are stored
  for (const Rows<T>& grad : grads) {
    if (!grad.first) continue;
    stream = stream && (!out.first || in_step(grad, out));
    out = grad;
  }
  stream = stream && out.first;
  int64_t r = 0;
  if (!stream || whole_lines(out))
    for (; r + 2 <= rows; r += 2)
      differentiate_at_once<T, count, 2>(g, terms, r, length, stream, grads, out.row(r), sums, of_rows);
  for (; r < rows; ++r)
    differentiate_at_once<T, count, 1>(g, terms, r, length, stream, grads, out.row(r), sums, of_rows);
}

#endif

// out.row(r)[i] = before.row(r)[i], if there are such, plus the terms at i. `buffer` has room for `count` rows.
template <class T, int count, class O>
void sum_terms(const Terms<T, count>& terms, const Rows<const acc_t<T>>& before, int64_t rows, int64_t length,
               bool stream, acc_t<T>* buffer, const Rows<O>& out) {
  using Acc = acc_t<T>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (!std::is_same_v<T, double>)
    if (isa() == Isa::avx512) return sum_terms_avx512<T, count>(terms, before, rows, length, stream, out);
#endif
  for (int64_t r = 0; r < rows; ++r) {
    const Acc *values[count], *along[count];
    Acc across[count];
    for (int k = 0; k < count; ++k) {
      values[k] = widened(terms[k].rows.row(r), length, buffer + k * length);
      along[k] = terms[k].along;
      across[k] = terms[k].across[r];
    }
    const auto total = [=](int64_t i) {
      Acc sum = along[0][i] * across[0] * values[0][i];
      for (int k = 1; k < count; ++k) sum += along[k][i] * across[k] * values[k][i];
      return sum;
    };
    const Acc* added = before.row(r);
    if (added)
      fill_row<Acc>(out.row(r), length, stream, [&](int64_t i) { return added[i] + total(i); });
    else
      fill_row<Acc>(out.row(r), length, stream, total);
  }
}

// What differentiate_terms does, of a row in the arithmetic type: of one term or two, whose weights across it are
// given.
template <bool of_first, bool of_last, bool of_weights, class Acc, size_t count>
Acc differentiate_terms_of_row(const Acc* g, const std::array<const Acc*, count>& rows,
                               const std::array<const Acc*, count>& along, const std::array<Acc, count>& across,
                               int64_t length, const std::array<Acc*, count>& grads, Acc* __restrict sums) {
  static_assert(count <= 2);
  const Acc *first = rows[0], *last = rows[count - 1], *along_first = along[0], *along_last = along[count - 1];
  const Acc across_first = across[0], across_last = across[count - 1];
  Acc *of_first_row = grads[0], *of_last_row = grads[count - 1], total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) {
    if constexpr (of_first) of_first_row[i] = along_first[i] * across_first * g[i];
    if constexpr (of_last && count == 2) of_last_row[i] = along_last[i] * across_last * g[i];
    if constexpr (of_weights && count == 1) {
      const Acc product = first[i] * g[i];
      sums[i] += across_first * product;
      total += along_first[i] * product;
    } else if constexpr (of_weights) {
      const Acc product = first[i] * g[i], subtracted = last[i] * g[i];
      sums[i] += across_first * product - across_last * subtracted;
      total += along_first[i] * product - along_last[i] * subtracted;
    }
  }
  return total;
}

// Of terms and the gradient g of their sum: grads[k].row(r)[i] = along_k[i] * across_k[r] * g.row(r)[i], where there
// are such rows; and, if `sums` is not null, what the weights' gradients need of the first term less the others:
// sums[i] += across_k[r] * g.row(r)[i] * rows_k.row(r)[i], and of_rows[r], the sum of along_k[i] * g.row(r)[i] *
// rows_k.row(r)[i]. `buffer` has room for 1 + 2 * count rows.
template <class T, int count>
void differentiate_terms(const Rows<const T>& g, const Terms<T, count>& terms, int64_t rows, int64_t length,
                         bool stream, acc_t<T>* buffer, const std::array<Rows<T>, count>& grads,
                         acc_t<T>* __restrict sums, acc_t<T>* of_rows) {
  using Acc = acc_t<T>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (!std::is_same_v<T, double>)
    if (isa() == Isa::avx512)
      return differentiate_avx512<T, count>(g, terms, rows, length, stream, grads, sums, of_rows);
#endif
  for (int64_t r = 0; r < rows; ++r) {
    const Acc* gs = widened(g.row(r), length, buffer);
    std::array<const Acc*, count> values, along;
    std::array<Acc, count> across;
    std::array<Acc*, count> stored;
    for (int k = 0; k < count; ++k) {
      values[k] = sums ? widened(terms[k].rows.row(r), length, buffer + (1 + k) * length) : nullptr;
      along[k] = terms[k].along;
      across[k] = terms[k].across[r];
      stored[k] = computed_in(grads[k].row(r), buffer + (1 + count + k) * length, stream);
    }
    const auto run = [&](auto of_first, auto of_last, auto of_weights) {
      of_rows[r] =
          differentiate_terms_of_row<of_first, of_last, of_weights>(gs, values, along, across, length, stored, sums);
    };
    dispatch_flags(run, grads[0].first != nullptr, grads[count - 1].first != nullptr, sums != nullptr);
    for (int k = 0; k < count; ++k) store(stored[k], length, grads[k].row(r), stream);
  }
}

}  // namespace afa
