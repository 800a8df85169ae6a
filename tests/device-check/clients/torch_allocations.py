"""PyTorch's allocator under load: random sizes, several streams, out of memory and back."""

import random

import torch

import say

random.seed(6)
held, total = [], 0
streams = [torch.cuda.Stream() for _ in range(3)]
for turn in range(600):
    stream = random.choice(streams)
    with torch.cuda.stream(stream):
        count = random.choice((1 << 10, 1 << 16, 1 << 20, 3 << 20))
        block = torch.full((count,), turn % 251, dtype=torch.int32, device="cuda")
        block.record_stream(stream)
        held.append((turn % 251, block))
    if len(held) > 40:
        torch.cuda.synchronize()
        number, block = held.pop(random.randrange(len(held)))
        say.check(bool((block == number).all()), f"a block of {block.numel()} kept its contents")
        total += number
say.value("blocks", total)

# As much as there is, then a little more: refused, and everything works afterwards.
held.clear()
torch.cuda.empty_cache()
free, whole = torch.cuda.mem_get_info()
say.check(0 < free <= whole, "memory is told")
hoard, refused = [], False
size = max(free // 16, 1 << 20)
for _ in range(64):
    try:
        hoard.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError:
        refused = True
        break
say.check(refused, "more than there is, is refused")
say.value("refused", refused)
hoard.clear()
torch.cuda.empty_cache()
say.value("afterwards", torch.arange(1000, device="cuda").sum().item())
seconds = say.median_seconds(lambda: torch.empty(5 << 20, device="cuda"), torch.cuda.synchronize, rounds=100)
say.time("allocation from the cache", seconds * 1e6, "us")
