// Rows of narrow numbers to the arithmetic type and back.
//
// Half and BFloat16 are structs, which defeat the vectoriser in any but the plainest loop, so a row is converted in a
// loop of its own, in the cache. Of Half such a loop is fifteen instructions a vector, where processors have one. A
// loop that is written for AVX-512 converts in registers: `load_lanes`, `store_lanes`.
#pragma once

#include "../common.h"
#include "isa.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace afa {

template <class T, class Acc>
inline void widen(const T* row, int64_t count, Acc* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Acc>(row[i]);
}
template <class T, class Acc>
inline void narrow(const Acc* values, int64_t count, T* row) {
  for (int64_t i = 0; i < count; ++i) row[i] = static_cast<T>(values[i]);
}

#if defined(__x86_64__) && defined(__GNUC__)

// The first `count` of sixteen lanes.
inline uint16_t first_lanes(int64_t count) {
  return static_cast<uint16_t>(count < 16 ? (1 << count) - 1 : 0xffff);
}

// Sixteen elements, or those of them that are `inside`, as float32.
AFA_TARGET_AVX512 inline __m512 load_lanes(__mmask16 inside, const float* from) {
  return _mm512_maskz_loadu_ps(inside, from);
}
AFA_TARGET_AVX512 inline __m512 load_lanes(__mmask16 inside, const Half* from) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(inside, from));
}
AFA_TARGET_AVX512 inline __m512 load_lanes(__mmask16 inside, const BFloat16* from) {
  const __m512i halves = _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(inside, from));  // each goes to an upper one
  const __m512i order = _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 16);
  return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, order, halves));
}

// Stores what is inside, or all past the cache.
AFA_TARGET_AVX512 inline void store_lanes(__mmask16 inside, bool stream, __m512 values, float* to) {
  stream ? _mm512_stream_ps(to, values) : _mm512_mask_storeu_ps(to, inside, values);
}
template <class T>
AFA_TARGET_AVX512 inline void store_lanes(__mmask16 inside, bool stream, __m256i values, T* to) {
  stream ? _mm256_stream_si256(reinterpret_cast<__m256i*>(to), values) : _mm256_mask_storeu_epi16(to, inside, values);
}
AFA_TARGET_AVX512 inline void store_lanes(__mmask16 inside, bool stream, __m512 values, Half* to) {
  store_lanes(inside, stream, _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), to);
}
AFA_TARGET_AVX512 inline void store_lanes(__mmask16 inside, bool stream, __m512 values, BFloat16* to) {
  const __m512i bits = _mm512_castps_si512(values), up = _mm512_set1_epi32(0x8000), less = _mm512_set1_epi32(0x7fff);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));  // a tie goes to the even neighbour
  const __m512i rounded = _mm512_mask_add_epi32(_mm512_add_epi32(bits, less), odd, bits, up);
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  const __m512i order = _mm512_setr_epi32(0x30001, 0x70005, 0xb0009, 0xf000d, 0x130011, 0x170015, 0x1b0019, 0x1f001d, 0,
                                          0, 0, 0, 0, 0, 0, 0);  // the upper halves
  store_lanes(inside, stream, _mm512_castsi512_si256(_mm512_permutexvar_epi16(order, result)), to);
}

[[gnu::noinline]] AFA_TARGET_AVX512 inline void widen_avx512(const Half* row, int64_t count, float* values) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 inside = first_lanes(count - i);
    store_lanes(inside, false, load_lanes(inside, row + i), values + i);
  }
}
[[gnu::noinline]] AFA_TARGET_AVX512 inline void narrow_avx512(const float* values, int64_t count, Half* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 inside = first_lanes(count - i);
    store_lanes(inside, false, load_lanes(inside, values + i), row + i);
  }
}
[[gnu::noinline]] AFA_TARGET_AVX2 inline void widen_avx2(const Half* row, int64_t count, float* values) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i))));
  for (; i < count; ++i) values[i] = static_cast<float>(row[i]);
}
[[gnu::noinline]] AFA_TARGET_AVX2 inline void narrow_avx2(const float* values, int64_t count, Half* row) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) row[i] = static_cast<Half>(values[i]);
}

// Not inlined, for their instructions are not those of their callers.
inline void widen(const Half* row, int64_t count, float* values) {
  switch (isa()) {
    case Isa::avx512: return widen_avx512(row, count, values);
    case Isa::avx2: return widen_avx2(row, count, values);
    case Isa::baseline: return widen<Half, float>(row, count, values);
  }
}
inline void narrow(const float* values, int64_t count, Half* row) {
  switch (isa()) {
    case Isa::avx512: return narrow_avx512(values, count, row);
    case Isa::avx2: return narrow_avx2(values, count, row);
    case Isa::baseline: return narrow<Half, float>(values, count, row);
  }
}

#endif

}  // namespace afa
