"""CUDA graphs: a captured training step, replayed, against the same steps run eagerly."""

import torch

import say


def setup():
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).cuda()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer, x, y):
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


x, y = torch.randn(64, 128, device="cuda"), torch.randn(64, 10, device="cuda")
model, optimizer = setup()
eager = [step(model, optimizer, x, y).item() for _ in range(3 + 10)]

model, optimizer = setup()
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        step(model, optimizer, x, y)
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    loss = step(model, optimizer, x, y)
replayed = []
for _ in range(10):
    graph.replay()
    replayed.append(loss.item())
say.check(
    all(abs(a - b) <= 1e-4 * abs(a) for a, b in zip(eager[3:], replayed)), f"replays and eager agree: {eager} {replayed}"
)
say.value("last loss", replayed[-1], 1e-4)
seconds = say.median_seconds(graph.replay, torch.cuda.synchronize, rounds=200, warm=20)
say.rate("replays", 1 / seconds, "1/s")

try:
    broken = torch.cuda.CUDAGraph()
    with torch.cuda.graph(broken):
        torch.randn(4, device="cuda").sum().item()
except RuntimeError:
    say.value("synchronising inside a capture is refused", 1)
torch.cuda.synchronize()
say.value("afterwards", (x + 1).double().sum().item(), 1e-9)
