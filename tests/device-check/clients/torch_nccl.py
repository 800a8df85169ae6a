"""NCCL through torch.distributed with one rank: initialisation, collectives, graphs of them."""

import os

import torch
import torch.distributed as dist

import say

os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
os.environ.setdefault("MASTER_PORT", str(29500 + os.getpid() % 1000))
dist.init_process_group("nccl", rank=0, world_size=1, device_id=torch.device("cuda:0"))
x = torch.arange(1 << 16, dtype=torch.float32, device="cuda")
dist.all_reduce(x)
say.value("all_reduce", x.double().sum().item())
out = [torch.empty_like(x)]
dist.all_gather(out, x)
say.check(torch.equal(out[0], x), "all_gather of one rank is a copy")
dist.broadcast(x, 0)
dist.barrier()
say.value("after", x[12345].item())
seconds = say.median_seconds(lambda: dist.all_reduce(x), torch.cuda.synchronize, rounds=50)
say.time("all_reduce of 256 KiB", seconds * 1e6, "us")
dist.destroy_process_group()
