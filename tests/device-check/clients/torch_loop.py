"""Training steps for a few seconds: `large` keeps the device busy, `small` keeps the driver busy."""

import sys
import time

import torch

import say

torch.manual_seed(8)
width, batch = {"large": (4096, 4096), "small": (128, 32)}[sys.argv[1]]
model = torch.nn.Sequential(*[
    layer for _ in range(6) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())
]).cuda()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
x = torch.randn(batch, width, device="cuda")


def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = (model(x) - x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


first = step().item()
say.value("first loss", first, 1e-3)
for _ in range(10):
    step()
torch.cuda.synchronize()
steps, began = 0, time.perf_counter()
while time.perf_counter() - began < 6.0:
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    steps += 10
say.rate(f"{sys.argv[1]} steps", steps / (time.perf_counter() - began), "1/s")
say.check(step().item() < first, "the loss falls")
