// The kernels compiled for CUDA devices.
#include "platform.cuh"
// The platform comes first.
#include "launch.h"
