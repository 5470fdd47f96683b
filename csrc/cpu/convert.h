// Rows of narrow numbers to the arithmetic type and back.
//
// Half and BFloat16 are structs, which defeat the vectoriser in any but the plainest loop, so a row is converted in a
// loop of its own, in the cache. Of Half such a loop is fifteen instructions a vector, where processors have one.
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

[[gnu::noinline]] AFA_TARGET_AVX512 inline void widen_avx512(const Half* row, int64_t count, float* values) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto inside = static_cast<__mmask16>(count - i < 16 ? (1 << (count - i)) - 1 : 0xffff);
    _mm512_mask_storeu_ps(values + i, inside, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(inside, row + i)));
  }
}
[[gnu::noinline]] AFA_TARGET_AVX512 inline void narrow_avx512(const float* values, int64_t count, Half* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto inside = static_cast<__mmask16>(count - i < 16 ? (1 << (count - i)) - 1 : 0xffff);
    const __m512 wide = _mm512_maskz_loadu_ps(inside, values + i);
    _mm256_mask_storeu_epi16(row + i, inside, _mm512_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
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
