"""GPT-2 (124 million parameters, random weights): `train` or `generate`."""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import say

torch.manual_seed(3)
model = GPT2LMHeadModel(GPT2Config()).cuda()

if sys.argv[1] == "train":
    # Dropout draws from the device's generator, which is seeded: the same numbers on both sides.
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    tokens = torch.randint(0, 50257, (8, 512), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        return loss

    losses = [step().item() for _ in range(8)]
    say.check(losses[-1] < losses[0], f"the loss falls: {losses}")
    say.value("first loss", losses[0], 1e-3)
    say.value("last loss", losses[-1], 2e-2)
    seconds = say.median_seconds(step, torch.cuda.synchronize, rounds=10)
    say.rate("training", tokens.numel() / seconds, "tokens/s")
else:
    model.eval()
    prompt = torch.randint(0, 50257, (1, 16), device="cuda")
    mask = torch.ones_like(prompt)

    def generate():
        return model.generate(
            prompt, attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=50256
        )

    with torch.inference_mode():
        tokens = generate()
        say.check(tokens.shape == (1, 80), "64 tokens are made")
        for place, token in enumerate(tokens[0, 16:24].tolist()):
            say.value(f"token {place}", token)
        seconds = say.median_seconds(generate, torch.cuda.synchronize, rounds=3, warm=1)
        say.rate("generation", 64 / seconds, "tokens/s")
