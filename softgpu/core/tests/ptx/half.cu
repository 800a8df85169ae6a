#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void halves(const __half *a, __half *o, const __nv_bfloat16 *b, __nv_bfloat16 *p, const __half2 *c, __half2 *q) {
  int t = threadIdx.x;
  o[t] = __hfma(a[t], a[t+1], a[t+2]) + a[t] * a[t+3] - a[t+4] / a[t+5];
  p[t] = b[t] * b[t+1] + __float2bfloat16(3.0f) ;
  q[t] = __hfma2(c[t], c[t+1], c[t+2]) + __hmax2(c[t], c[t+3]);
  if (__hlt(a[t], a[t+1])) o[t] = hexp(o[t]);
}
