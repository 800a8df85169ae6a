"""Tensors and gradients: tinygrad generates CUDA C for what is asked of it and compiles it with NVRTC.

Multiplies matrices, reduces, convolves, differentiates, and trains a small network until it has learned exclusive or.
Set DEV=CUDA so that tinygrad takes the GPU.
"""

import sys

import numpy as np
from tinygrad import Context, Device, Tensor, TinyJit, nn
from tinygrad.nn.optim import SGD


def check(name, right):
    print(f"{name}:", "right" if right else "WRONG")
    return bool(right)


def convolve(image, kernel):
    """The definition of a convolution without padding, for comparison."""
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape)
    return np.einsum("ijkl,kl->ij", windows, kernel)


class Network:
    def __init__(self):
        self.hidden, self.output = nn.Linear(2, 8), nn.Linear(8, 1)

    def __call__(self, x):
        return self.output(self.hidden(x).tanh()).sigmoid()


def train():
    """Learns exclusive or; returns what the network then says of the four inputs."""
    Tensor.manual_seed(7)
    network = Network()
    optimizer = SGD(nn.state.get_parameters(network), lr=0.5, momentum=0.9)
    x = Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = Tensor([[0.0], [1.0], [1.0], [0.0]])

    @TinyJit
    def step():
        optimizer.zero_grad()
        loss = network(x).binary_crossentropy(y).backward()
        optimizer.step()
        return loss.realize()

    with Context(TRAINING=1):
        for _ in range(150):
            step()
    return network(x).numpy().ravel()


def main():
    print("running on", Device.DEFAULT)
    random = np.random.default_rng(1)
    a, b = random.random((2, 64, 64), dtype=np.float32)
    results = [check("matrix product", np.allclose((Tensor(a) @ Tensor(b)).numpy(), a @ b, rtol=1e-5))]
    results.append(check("sum", np.allclose(Tensor(a).sum(axis=0).numpy(), a.sum(axis=0), rtol=1e-5)))
    results.append(check("softmax", np.allclose(Tensor(a).softmax().numpy().sum(axis=1), 1, rtol=1e-5)))

    kernel = random.random((3, 3), dtype=np.float32)
    convolved = Tensor(a).reshape(1, 1, 64, 64).conv2d(Tensor(kernel).reshape(1, 1, 3, 3))
    results.append(check("convolution", np.allclose(convolved.numpy()[0, 0], convolve(a, kernel), rtol=1e-5)))

    x = Tensor(a)
    (gradient,) = (x.exp() * 2).sum().gradient(x)
    results.append(check("gradient", np.allclose(gradient.numpy(), 2 * np.exp(a), rtol=1e-5)))

    learned = train()
    results.append(check("exclusive or", np.array_equal(learned > 0.5, [False, True, True, False])))

    print("PASSED" if all(results) else "FAILED")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
