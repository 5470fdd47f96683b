// What a row of a fusion is a sum of, maps weighed by a value along the row times a value across the rows, and the
// gradients of such a term.
//
// With AVX-512 narrow numbers are converted in registers, and what is streamed leaves from there: a loop that goes
// through the cache on its way to the stores is a quarter slower.
#pragma once

#include "rows.h"

namespace afa {

// along[i] * across * row[i]
template <class T>
struct Term {
  const T* row;
  const acc_t<T>* along;
  acc_t<T> across;
};

template <class T, int count>
using Terms = std::array<Term<T>, count>;

#if defined(__x86_64__) && defined(__GNUC__)

// Whether what is below leaves from registers.
template <class T>
bool from_registers() {
  return !std::is_same_v<T, double> && isa() == Isa::avx512;
}

// step(inside, stream, i) for the sixteen elements from i on, up to the last of a row that is stored at `out`.
template <class F>
AFA_TARGET_AVX512 inline void for_each_sixteen(F& step, int64_t first, int64_t last, bool stream) {
  for (int64_t i = first; i < last; i += 16) step(first_lanes(last - i), stream, i);
}
template <class F, class O>
AFA_TARGET_AVX512 inline void for_each_sixteen(F& step, int64_t length, bool stream, const O* out) {
  if (!stream) return for_each_sixteen(step, 0, length, false);
  constexpr int64_t of_line = LINE / sizeof(O);
  const int64_t head = std::min<int64_t>(length, -reinterpret_cast<uintptr_t>(out) % LINE / sizeof(O));
  const int64_t tail = head + (length - head) / of_line * of_line;
  for_each_sixteen(step, 0, head, false);  // what shares a line with another row
  for_each_sixteen(step, head, tail, true);
  for_each_sixteen(step, tail, length, false);
}

template <class T, int count, class O>
struct SumOfTerms {
  const Terms<T, count>& terms;
  const float* before;
  O* out;

  AFA_TARGET_AVX512 inline void operator()(__mmask16 inside, bool stream, int64_t i) const {
    __m512 sum = before ? load(inside, before + i) : _mm512_setzero_ps();
    for (const Term<T>& term : terms) {
      const __m512 weight = _mm512_mul_ps(load(inside, term.along + i), _mm512_set1_ps(term.across));
      sum = _mm512_fmadd_ps(weight, load(inside, term.row + i), sum);
    }
    put(inside, stream, sum, out + i);
  }
};

template <class T, int count, class O>
[[gnu::noinline]] AFA_TARGET_AVX512 void sum_terms_avx512(const Terms<T, count>& terms, const float* before,
                                                          int64_t length, bool stream, O* out) {
  SumOfTerms<T, count, O> step{terms, before, out};
  for_each_sixteen(step, length, stream, out);
}

template <class T, int count>
struct GradientsOfTerms {
  const T* g;
  const Terms<T, count>& terms;
  const std::array<T*, count>& grads;
  float* sums;
  __m512 along;

  AFA_TARGET_AVX512 inline void operator()(__mmask16 inside, bool stream, int64_t i) {
    const __m512 grad = load(inside, g + i);
    __m512 sum = sums ? load(inside, sums + i) : _mm512_setzero_ps();
    for (int k = 0; k < count; ++k) {
      const __m512 weight = load(inside, terms[k].along + i), across = _mm512_set1_ps(terms[k].across);
      if (sums) {
        const __m512 product = _mm512_mul_ps(grad, load(inside, terms[k].row + i));
        sum = k == 0 ? _mm512_fmadd_ps(across, product, sum) : _mm512_fnmadd_ps(across, product, sum);
        along = k == 0 ? _mm512_fmadd_ps(weight, product, along) : _mm512_fnmadd_ps(weight, product, along);
      }
      if (grads[k]) put(inside, stream, _mm512_mul_ps(_mm512_mul_ps(weight, across), grad), grads[k] + i);
    }
    if (sums) put(inside, false, sum, sums + i);
  }
};

template <class T, int count>
[[gnu::noinline]] AFA_TARGET_AVX512 float differentiate_avx512(const T* g, const Terms<T, count>& terms, int64_t length,
                                                               bool stream, const std::array<T*, count>& grads,
                                                               float* sums) {
  GradientsOfTerms<T, count> step{g, terms, grads, sums, _mm512_setzero_ps()};
  const T* first = nullptr;
  for (const T* grad : grads) {
    if (!grad) continue;
    const bool aligned = !first || (reinterpret_cast<uintptr_t>(grad) - reinterpret_cast<uintptr_t>(first)) % LINE == 0;
    stream = stream && aligned;
    first = grad;
  }
  for_each_sixteen(step, length, stream && first, first);
  return _mm512_reduce_add_ps(step.along);
}

#else

template <class T>
bool from_registers() {
  return false;
}

#endif

// out[i] = before[i], if that is not null, plus the terms at i. `buffer` has room for `count` rows.
template <class T, int count, class O>
void sum_terms(const Terms<T, count>& terms, const acc_t<T>* before, int64_t length, bool stream, acc_t<T>* buffer,
               O* out) {
  using Acc = acc_t<T>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (!std::is_same_v<T, double>)
    if (isa() == Isa::avx512) return sum_terms_avx512<T, count>(terms, before, length, stream, out);
#endif
  const Acc* rows[count];
  for (int k = 0; k < count; ++k) rows[k] = widened(terms[k].row, length, buffer + k * length);
  const auto total = [&](int64_t i) {
    Acc sum = terms[0].along[i] * terms[0].across * rows[0][i];
    for (int k = 1; k < count; ++k) sum += terms[k].along[i] * terms[k].across * rows[k][i];
    return sum;
  };
  if (before)
    fill_row<Acc>(out, length, stream, [&](int64_t i) { return before[i] + total(i); });
  else
    fill_row<Acc>(out, length, stream, total);
}

// What differentiate_terms does, of rows in the arithmetic type: of one term or two.
template <bool of_first, bool of_last, bool of_weights, class Acc, size_t count>
Acc differentiate_rows(const Acc* g, const std::array<Term<Acc>, count>& terms, int64_t length,
                       const std::array<Acc*, count>& grads, Acc* __restrict sums) {
  static_assert(count <= 2);
  const Term<Acc> first = terms[0], last = terms[count - 1];
  Acc *of_first_row = grads[0], *of_last_row = grads[count - 1], total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) {
    if constexpr (of_first) of_first_row[i] = first.along[i] * first.across * g[i];
    if constexpr (of_last && count == 2) of_last_row[i] = last.along[i] * last.across * g[i];
    if constexpr (of_weights && count == 1) {
      const Acc product = first.row[i] * g[i];
      sums[i] += first.across * product;
      total += first.along[i] * product;
    } else if constexpr (of_weights) {
      const Acc product = first.row[i] * g[i], subtracted = last.row[i] * g[i];
      sums[i] += first.across * product - last.across * subtracted;
      total += first.along[i] * product - last.along[i] * subtracted;
    }
  }
  return total;
}

// Of terms and the gradient g of their sum: grads[k][i] = along_k[i] * across_k * g[i], where that is not null; and, if
// `sums` is not null, what the weights' gradients need of the first term less the others: sums[i] += across_k * g[i] *
// row_k[i], and returned the sum of along_k[i] * g[i] * row_k[i]. `buffer` has room for 1 + 2 * count rows.
template <class T, int count>
acc_t<T> differentiate_terms(const T* g, const Terms<T, count>& terms, int64_t length, bool stream, acc_t<T>* buffer,
                             const std::array<T*, count>& grads, acc_t<T>* __restrict sums) {
  using Acc = acc_t<T>;
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (!std::is_same_v<T, double>)
    if (isa() == Isa::avx512) return differentiate_avx512<T, count>(g, terms, length, stream, grads, sums);
#endif
  const Acc* gs = widened(g, length, buffer);
  Terms<Acc, count> rows;
  std::array<Acc*, count> values;
  for (int k = 0; k < count; ++k) {
    const Acc* row = sums ? widened(terms[k].row, length, buffer + (1 + k) * length) : nullptr;
    rows[k] = {row, terms[k].along, terms[k].across};
    values[k] = computed_in(grads[k], buffer + (1 + count + k) * length, stream);
  }
  Acc total = 0;
  const auto run = [&](auto of_first, auto of_last, auto of_weights) {
    total = differentiate_rows<of_first, of_last, of_weights>(gs, rows, length, values, sums);
  };
  dispatch_flags(run, grads[0] != nullptr, grads[count - 1] != nullptr, sums != nullptr);
  for (int k = 0; k < count; ++k) store(values[k], length, grads[k], stream);
  return total;
}

}  // namespace afa
