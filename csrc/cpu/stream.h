// Stores past the cache, for outputs that are larger than it.
#pragma once

#include <cstring>

#include "../common.h"
#include "isa.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace afa {

constexpr int64_t LINE = 64;  // bytes of a cache line

// How many elements lie before the next line that begins at or after an address.
template <class T>
int64_t before_line(const T* address) {
  return -reinterpret_cast<uintptr_t>(address) % LINE / sizeof(T);
}

// A store to a line that is not in the cache reads it first, and drives out another. An output that is larger than
// what a core has of the cache is streamed past it: whoever reads it would not find its beginning there. Not if what is
// stored at once, `length` elements, is short, where it does not pay; but it does if that is whole lines that are
// streamed `from_registers`.
inline bool streamed(const Tensor& output, int64_t length, bool from_registers) {
  constexpr int64_t least = 8 << 20;
  const int64_t size = output.element_size(), row = length * size;
  return output.numel() * size >= least && (row >= 16 * LINE || (from_registers && row % LINE == 0));
}

// The same of rows of the output, which in channels_last are short.
inline bool streamed(const Tensor& output, bool from_registers = false) {
  return streamed(output, Layout(output).length(), from_registers);
}

inline bool streamed(const std::optional<Tensor>& output, bool from_registers = false) {
  return output && streamed(*output, from_registers);
}

#if defined(__x86_64__) && defined(__GNUC__)

// Whether loops that are written for AVX-512 store elements of T, which leave from registers there.
template <class T>
bool from_registers() {
  return !std::is_same_v<T, double> && isa() == Isa::avx512;
}

[[gnu::noinline]] AFA_TARGET_AVX512 inline void stream_avx512(char* to, const char* from, int64_t lines) {
  for (int64_t i = 0; i < lines; ++i, to += LINE, from += LINE)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}
[[gnu::noinline]] AFA_TARGET_AVX2 inline void stream_avx2(char* to, const char* from, int64_t lines) {
  for (int64_t i = 0; i < 2 * lines; ++i, to += LINE / 2, from += LINE / 2)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
[[gnu::noinline]] inline void stream_baseline(char* to, const char* from, int64_t lines) {
  for (int64_t i = 0; i < 4 * lines; ++i, to += LINE / 4, from += LINE / 4)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// Copies whole lines past the cache. Not inlined, for its instructions are not those of its callers.
[[gnu::noinline]] inline void stream(char* to, const char* from, int64_t lines) {
  switch (isa()) {
    case Isa::avx512: return stream_avx512(to, from, lines);
    case Isa::avx2: return stream_avx2(to, from, lines);
    case Isa::baseline: return stream_baseline(to, from, lines);
  }
}

// What was streamed is seen by other threads before what is stored after this.
inline void end_streams() {
  _mm_sfence();
}

#else

template <class T>
bool from_registers() {
  return false;
}

inline void stream(char* to, const char* from, int64_t lines) {
  std::memcpy(to, from, lines * LINE);
}

inline void end_streams() {}

#endif

}  // namespace afa
