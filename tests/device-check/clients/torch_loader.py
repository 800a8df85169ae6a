"""A data loader with workers and pinned memory, its batches copied while the last one is used."""

import time

import torch
from torch.utils.data import DataLoader, TensorDataset

import say

if __name__ == "__main__":
    torch.manual_seed(7)
    data = torch.randn(2048, 3, 64, 64)
    loader = DataLoader(TensorDataset(data), batch_size=128, num_workers=2, pin_memory=True)
    want = data.double().sum().item()

    def epoch():
        total = torch.zeros((), dtype=torch.float64, device="cuda")
        for (batch,) in loader:
            say.check(batch.is_pinned(), "batches are pinned")
            total += batch.to("cuda", non_blocking=True).double().sum()
        return total.item()

    got = epoch()
    say.check(abs(got - want) <= 1e-6 * max(1.0, abs(want)) + 1e-3, f"all data arrive: {got} for {want}")
    say.value("sum", round(got, 3), 1e-6)
    began = time.perf_counter()
    epoch()
    say.rate("epoch", data.numel() * 4 / 1e6 / (time.perf_counter() - began), "MB/s")
    pinned, device = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True), torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    for name, to, source in (("to device", device, pinned), ("from device", pinned, device)):
        seconds = say.median_seconds(lambda: to.copy_(source, non_blocking=True), torch.cuda.synchronize, rounds=9)
        say.rate(f"pinned copy {name}", (64 << 20) / 1e9 / seconds, "GB/s")
