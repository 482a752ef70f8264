// The kernels for x86-64 with AVX2 and FMA.
#if !defined(__AVX2__) || !defined(__FMA__)
#error "kernel_avx2.cpp must be compiled with -mavx2 -mfma"
#endif
#define SETFORMER_MM_KERNELS kAvx2Kernels
#define SETFORMER_MM_KERNELS_NAME "avx2"
#include "kernel.h"
