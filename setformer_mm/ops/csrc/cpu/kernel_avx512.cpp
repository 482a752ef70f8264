// The kernels for x86-64 with AVX-512.
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "kernel_avx512.cpp must be compiled with -mavx512f -mavx512dq -mavx512vl"
#endif
#define SETFORMER_MM_KERNELS kAvx512Kernels
#define SETFORMER_MM_KERNELS_NAME "avx512"
#include "kernel.h"
