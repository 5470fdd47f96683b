// What memory gives: a copy, and a = b + s * c with ordinary and with streaming stores, a part for each thread.

#include <cstddef>
#include <thread>
#include <vector>
#ifdef __SSE2__
#include <immintrin.h>
#endif

using Kernel = void (*)(float* a, const float* b, const float* c, float s, size_t count);

static void copy(float* a, const float* b, const float*, float, size_t count) {
  for (size_t i = 0; i < count; ++i) a[i] = b[i];
}

static void triad(float* a, const float* b, const float* c, float s, size_t count) {
  for (size_t i = 0; i < count; ++i) a[i] = b[i] + s * c[i];
}

// Past the caches, so that the lines of a are not read before they are written; as `triad` where x86's stores are not.
static void triad_streaming(float* a, const float* b, const float* c, float s, size_t count) {
#ifdef __SSE2__
  const __m128 scale = _mm_set1_ps(s);
  for (size_t i = 0; i < count; i += 4) {
    _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(scale, _mm_load_ps(c + i))));
  }
  _mm_sfence();
#else
  triad(a, b, c, s, count);
#endif
}

// The arrays begin at a line of the cache, and every thread's part of them is whole lines.
extern "C" void run(int kernel, int threads, float* a, const float* b, const float* c, float s, size_t count) {
  const Kernel chosen = (Kernel[]){copy, triad, triad_streaming}[kernel];
  const size_t part = count / threads;
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) {
    others.emplace_back(chosen, a + t * part, b + t * part, c + t * part, s, part);
  }
  chosen(a, b, c, s, part);
  for (std::thread& other : others) other.join();
}
