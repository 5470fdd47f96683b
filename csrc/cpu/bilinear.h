// Bilinear resizing along one axis, as torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
#pragma once

#include "../arithmetic/bilinear.h"
#include "../common.h"
#include "convert.h"
#include "isa.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace afa {

// Output i lies between the inputs low[i] and low[i] + 1 (at the end, and where the size is the same, one twice: its
// neighbour may be infinite), `fraction[i]` of the way.
template <class Acc>
struct Axis {
  int64_t in, out;
  std::vector<int32_t> low, lane;  // lane[i] counts from the low of the first of its sixteen outputs
  std::vector<Acc> fraction;
  int32_t lanes = 0;  // the largest lane

  Axis(int64_t in_size, int64_t out_size)
      : in(in_size), out(out_size), low(out_size), lane(out_size), fraction(out_size) {
    const Acc scale = static_cast<Acc>(in) / static_cast<Acc>(out);
    for (int64_t i = 0; i < out; ++i) {
      const Source<Acc> source = source_of(i, scale, in);
      low[i] = source.low;
      fraction[i] = source.fraction;
      lane[i] = low[i] - low[i / 16 * 16];
      lanes = std::max(lanes, lane[i]);
    }
  }

  int64_t high(int64_t i) const { return in == out ? low[i] : std::min<int64_t>(low[i] + 1, in - 1); }
};

// The transpose of an Axis: input j collects coefficient[begin[j] + i] times output first[j] + i, for i < count(j).
// With `identity` input j is output j alone, not also 0 times its neighbour, which may be infinite.
template <class Acc>
struct Transposed {
  std::vector<int64_t> first, begin;
  std::vector<Acc> coefficient;
  std::vector<int32_t> first32, count32;  // the same in 32 bits
  std::vector<Acc> of_reader;  // [i * in + j] is the coefficient of reader i of input j; zero, if there is none

  Transposed(const Axis<Acc>& axis, bool identity) : first(axis.in), begin(axis.in + 1) {
    int64_t start = 0;  // of the outputs that read input j or a later one
    for (int64_t j = 0; j < axis.in; ++j) {
      while (start < axis.out && (identity ? axis.low[start] : axis.high(start)) < j) ++start;
      first[j] = start;
      begin[j] = static_cast<int64_t>(coefficient.size());
      for (int64_t i = start; i < axis.out && axis.low[i] <= j; ++i)
        coefficient.push_back((axis.low[i] == j ? 1 - axis.fraction[i] : Acc(0)) +
                              (axis.high(i) == j ? axis.fraction[i] : Acc(0)));
    }
    begin[axis.in] = static_cast<int64_t>(coefficient.size());
    for (int64_t j = 0; j < axis.in; ++j) {
      first32.push_back(static_cast<int32_t>(first[j]));
      count32.push_back(static_cast<int32_t>(count(j)));
    }
    const int64_t most = axis.in > 0 ? *std::max_element(count32.begin(), count32.end()) : 0;
    of_reader.resize(most * axis.in);
    for (int64_t j = 0; j < axis.in; ++j)
      for (int64_t i = 0; i < count(j); ++i) of_reader[i * axis.in + j] = coefficient[begin[j] + i];
  }

  int64_t count(int64_t j) const { return begin[j + 1] - begin[j]; }
};

// What input j collects of `grads`.
template <class Acc>
Acc gathered(const Transposed<Acc>& columns, int64_t j, const Acc* grads) {
  const Acc *coefficient = columns.coefficient.data() + columns.begin[j], *g = grads + columns.first[j];
  Acc total = 0;
  for (int64_t i = 0; i < columns.count(j); ++i) total += coefficient[i] * g[i];
  return total;
}

#if defined(__x86_64__) && defined(__GNUC__)

// Sixteen inputs at a time, of which each has its own readers.
template <class T>
[[gnu::noinline]] AFA_TARGET_AVX512 void gather_avx512(const Transposed<float>& columns, int64_t count,
                                                       const float* grads, float factor, T* out) {
  const auto in = static_cast<int64_t>(columns.count32.size());
  const int64_t most = in > 0 ? static_cast<int64_t>(columns.of_reader.size()) / in : 0;
  const __m512 factors = _mm512_set1_ps(factor), zero = _mm512_setzero_ps();
  for (int64_t j = 0; j < count; j += 16) {
    const __mmask16 inside = first_lanes(count - j);
    const __m512i first = _mm512_maskz_loadu_epi32(inside, columns.first32.data() + j);
    const __m512i counts = _mm512_maskz_loadu_epi32(inside, columns.count32.data() + j);
    __m512 total = zero;
    for (int32_t i = 0; i < most; ++i) {
      const __mmask16 reads = _mm512_cmpgt_epi32_mask(counts, _mm512_set1_epi32(i));
      const __m512 g = _mm512_mask_i32gather_ps(zero, reads, _mm512_add_epi32(first, _mm512_set1_epi32(i)), grads, 4);
      total = _mm512_mask3_fmadd_ps(g, _mm512_maskz_loadu_ps(reads, &columns.of_reader[i * in + j]), total, reads);
    }
    store_lanes(inside, false, _mm512_mul_ps(total, factors), out + j);
  }
}

#endif

// out[j] = factor times what input j collects of `grads`, for `count` inputs.
template <class Acc, class T>
void gather(const Transposed<Acc>& columns, int64_t count, const Acc* grads, Acc factor, T* out) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512) return gather_avx512(columns, count, grads, factor, out);
#endif
  for (int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(factor * gathered(columns, j, grads));
}

// A resized row is read through windows of PADDING inputs: the source row ends with that many copies of its last value.
constexpr int64_t PADDING = 17;

// out[i] = (1 - f) source[l] + f source[l + 1] for the `count` outputs from `first`; source[0] is input low[first].
template <class Acc>
void resize_baseline(const Axis<Acc>& axis, int64_t first, int64_t count, const Acc* source, Acc* out) {
  const int32_t* low = axis.low.data() + first;
  const Acc* fraction = axis.fraction.data() + first;
  for (int64_t i = 0; i < count; ++i) {
    const Acc* s = source + (low[i] - low[0]);
    out[i] = (1 - fraction[i]) * s[0] + fraction[i] * s[1];
  }
}

#if defined(__x86_64__) && defined(__GNUC__)

// Where the row grows, LANES outputs read at most LANES neighbouring inputs: one load and one permutation, no gather.
AFA_TARGET_AVX2 inline void resize_avx2(const Axis<float>& axis, int64_t first, int64_t count, const float* source,
                                        float* out) {
  const int32_t* low = axis.low.data() + first;
  const float* fraction = axis.fraction.data() + first;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const float* window = source + (low[i] - low[0]);
    const __m256i lanes =
        _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + i)), _mm256_set1_epi32(low[i]));
    const __m256 f = _mm256_loadu_ps(fraction + i);
    const __m256 a = _mm256_permutevar8x32_ps(_mm256_loadu_ps(window), lanes);
    const __m256 b = _mm256_permutevar8x32_ps(_mm256_loadu_ps(window + 1), lanes);
    _mm256_storeu_ps(out + i, _mm256_fmadd_ps(f, b, _mm256_mul_ps(_mm256_sub_ps(_mm256_set1_ps(1.0f), f), a)));
  }
  for (; i < count; ++i) {
    const float* s = source + (low[i] - low[0]);
    out[i] = (1 - fraction[i]) * s[0] + fraction[i] * s[1];
  }
}

// Where it grows by a fifteenth or more, what sixteen outputs read is one load.
template <bool one_load>
AFA_TARGET_AVX512 inline void resize_avx512(const Axis<float>& axis, int64_t first, int64_t count, const float* source,
                                            float* out) {
  const int32_t *low = axis.low.data() + first, *lane = axis.lane.data() + first;
  const float* fraction = axis.fraction.data() + first;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const float* window = source + (low[i] - low[0]);
    const __m512i lanes = _mm512_loadu_si512(lane + i);
    const __m512 f = _mm512_loadu_ps(fraction + i), inputs = _mm512_loadu_ps(window);
    const __m512 a = _mm512_permutexvar_ps(lanes, inputs);
    const __m512 b = one_load ? _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(1)), inputs)
                              : _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(window + 1));
    _mm512_storeu_ps(out + i, _mm512_fmadd_ps(f, b, _mm512_mul_ps(_mm512_sub_ps(_mm512_set1_ps(1.0f), f), a)));
  }
  for (; i < count; ++i) {
    const float* s = source + (low[i] - low[0]);
    out[i] = (1 - fraction[i]) * s[0] + fraction[i] * s[1];
  }
}

#endif

template <class Acc>
void resize(const Axis<Acc>& axis, int64_t first, int64_t count, const Acc* source, Acc* out) {
  if (axis.in == axis.out) {
    for (int64_t i = 0; i < count; ++i) out[i] = source[i] + 0 * source[i];  // NaN for infinity, as in PyTorch
    return;
  }
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>) {
    if (axis.in <= axis.out && first % 16 == 0 && isa() == Isa::avx512)
      return (axis.lanes < 15 ? resize_avx512<true> : resize_avx512<false>)(axis, first, count, source, out);
    if (axis.in <= axis.out && isa() == Isa::avx2) return resize_avx2(axis, first, count, source, out);
  }
#endif
  resize_baseline(axis, first, count, source, out);
}

}  // namespace afa
