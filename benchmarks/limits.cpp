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

// The arrays begin at a line of the cache, 16 elements, and so does every thread's part; the last has the rest.
extern "C" void run(int kernel, int threads, float* a, const float* b, const float* c, float s, size_t count) {
  static constexpr Kernel kernels[] = {copy, triad, triad_streaming};
  const size_t part = count / threads / 16 * 16, last = part * (threads - 1);
  std::vector<std::thread> others;
  for (size_t begin = 0; begin < last; begin += part) {
    others.emplace_back(kernels[kernel], a + begin, b + begin, c + begin, s, part);
  }
  kernels[kernel](a + last, b + last, c + last, s, count - last);
  for (std::thread& other : others) other.join();
}
