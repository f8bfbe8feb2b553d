// Kernels of which all but the first are bad on purpose, each in one way that the gate has to find.

extern __shared__ float staged[];

__global__ void good_kernel(const float4* in, float4* out, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    float4 value = in[i];
    value.x *= 2;
    out[i] = value;
  }
}

// More values alive at once than 1024 threads have registers for.
__global__ void __launch_bounds__(1024) spilling_kernel(const float* in, float* out, int rounds) {
  float values[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) values[i] = in[i * 1024 + threadIdx.x];
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 96; ++i) values[i] = values[i] * values[(i + 7) % 96] + in[round];
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) out[i * 1024 + threadIdx.x] = values[i];
}

// Shared memory where the row fits, else global: no load says which.
__global__ void generic_kernel(float* scratch, float* out, int count, int steps) {
  float* const row = count <= 1024 ? staged : scratch;
  for (int step = 0; step < steps; ++step) {
    row[threadIdx.x] += row[(threadIdx.x + 1) % count];
    __syncthreads();
  }
  out[threadIdx.x] = row[threadIdx.x];
}

// An array that lies in memory, since which element is meant is known at run time only.
__global__ void local_array_kernel(const int* in, int* out, int count) {
  int counts[16] = {};
  for (int i = 0; i < count; ++i) ++counts[in[i] & 15];
  for (int i = 0; i < 16; ++i) out[i * blockDim.x + threadIdx.x] = counts[i];
}

// A branch for each value, around what cannot be a select.
__global__ void branching_kernel(const float* in, float* out, int count) {
  for (int i = 0; i < count; ++i) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float value = in[16 * i + j];
      if (value > threadIdx.x && value < out[j]) out[16 * i + j] = 1 / value;
    }
  }
}

// Four loads of a float each where one of 16 bytes would do.
__global__ void narrow_kernel(const float* in, float* out, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    out[i] = in[4 * i] + in[4 * i + 1] + in[4 * i + 2] + in[4 * i + 3];
  }
}
