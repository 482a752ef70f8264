// The kernels for any processor.
#define SETFORMER_MM_KERNELS kBaselineKernels
#define SETFORMER_MM_KERNELS_NAME "baseline"
#include "kernel.h"
