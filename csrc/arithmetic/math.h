// exp, expm1 and log1p of the device that a file is compiled for, and AFA_HD, which every function shared by both
// bears.
#pragma once

#ifdef __CUDACC__

#include <cmath>

#define AFA_HD __host__ __device__

namespace afa {

using std::exp, std::expm1, std::log1p;

}  // namespace afa

#else

#define AFA_HD

#include "../cpu/math.h"

#endif
