"""JAX: compiled functions, gradients, random numbers, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

import say

say.check(jax.devices()[0].platform == "gpu", f"JAX sees the GPU: {jax.devices()}")
jax.config.update("jax_default_matmul_precision", "highest")
rng = np.random.default_rng(9)
a, b = rng.standard_normal((256, 512), np.float32), rng.standard_normal((512, 128), np.float32)
got = np.asarray(jax.jit(jnp.matmul)(a, b))
say.check(np.allclose(got, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-3), "product")
say.value("product", got.astype(np.float64).sum(), 1e-5)


def loss(w):
    return jnp.mean(jnp.tanh(a @ w) ** 2)


gradient = np.asarray(jax.jit(jax.grad(loss))(b))
say.value("gradient", np.abs(gradient.astype(np.float64)).sum(), 1e-4)
say.value("random", float(jax.random.normal(jax.random.key(1), (1000,)).sum()), 1e-5)
say.value("sorted", float(jnp.sort(jax.random.uniform(jax.random.key(2), (5000,)))[2500]), 1e-6)
say.value("scan", float(jax.lax.scan(lambda c, x: (c * 0.5 + x, c), 0.0, jnp.arange(100.0))[0]), 1e-6)
run = jax.jit(lambda x: jnp.tanh(x @ x.T).sum())
seconds = say.median_seconds(lambda: run(a).block_until_ready(), lambda: None, rounds=50)
say.rate("compiled step", 1 / seconds, "1/s")
