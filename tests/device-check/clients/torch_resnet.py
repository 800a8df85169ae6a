"""ResNet-50 on random images: `train` or `infer`."""

import sys

import torch
import torchvision

import say

torch.manual_seed(2)
torch.backends.cudnn.benchmark = False
torch.backends.cudnn.deterministic = True
model = torchvision.models.resnet50(weights=None).cuda()


def images(count):
    return torch.randn(count, 3, 224, 224, device="cuda")


if sys.argv[1] == "train":
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batch, labels = images(64), torch.randint(0, 1000, (64,), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step().item() for _ in range(8)]
    say.check(losses[-1] < losses[0], f"the loss falls: {losses}")
    say.value("first loss", losses[0], 1e-4)
    say.value("last loss", losses[-1], 2e-2)
    seconds = say.median_seconds(step, torch.cuda.synchronize, rounds=20)
    say.rate("training", 64 / seconds, "images/s")
else:
    model.eval()
    with torch.inference_mode():
        batch = images(64)
        out = model(batch)
        say.check(bool(torch.isfinite(out).all()), "all outputs are numbers")
        say.value("outputs", out.double().abs().mean().item(), 1e-4)
        for count in (64, 1):
            few = batch[:count]
            seconds = say.median_seconds(lambda: model(few), torch.cuda.synchronize, rounds=20)
            say.rate(f"inference, batch of {count}", count / seconds, "images/s")
