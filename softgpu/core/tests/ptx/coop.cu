#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" __global__ void coop(int *o) { auto b = cg::this_thread_block(); auto w = cg::tiled_partition<8>(b); int v = threadIdx.x; for (int d = 4; d; d/=2) v += w.shfl_xor(v, d); b.sync(); o[threadIdx.x] = v + w.any(v > 3) + __match_any_sync(~0u, v) + __reduce_add_sync(~0u, v) + __syncthreads_count(v>3); cg::this_grid().sync(); 
 auto c = cg::coalesced_threads(); o[threadIdx.x] += c.size(); __nanosleep(10); __syncwarp(); }
