"""Which programs each part runs. Part 0, the assumptions probe, is a C program of its own."""

import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from . import codes, machine
from .cases import Case

HERE = Path(__file__).resolve().parents[1]
PROGRAMS = machine.ROOT / "tests/programs"
# One build with the runtime inside and one that finds it by the loader's path.
BUILDS = ("static-13.5", "shared-13.5")


def python(script, *arguments, needs=(), **more):
    command = [sys.executable, str(HERE / "clients" / script), *map(str, arguments)]
    name = " ".join([Path(script).stem, *map(str, arguments)])
    return Case(more.pop("name", name), command, needs=tuple(needs), **more)


def torch(script, *arguments, needs=(), **more):
    # PyTorch's kernels are machine code.
    return python(script, *arguments, needs=("torch", "sass", *needs), **more)


def programs(context):
    """What nvcc and a C compiler make of our own programs."""
    built = build_programs(context.work)
    cases = []
    for folder in ("driver", *BUILDS):
        for path in sorted((built / folder).glob("*")):
            if path.is_file() and os.access(path, os.X_OK):
                cases.append(Case(f"{folder}/{path.name}", [str(path)], speaks="output", libraries=runtime(context)))
    newest = capability(context)
    # A device loads PTX for itself and for older ones.
    builds = [path for path in sorted((built / "kernels").glob("nvcc-*")) if int(path.name.split("-")[1]) <= newest]
    for host in sorted((built / "kernels/bin").glob("*")):
        for build in builds:
            ptx = build / f"{host.name}.ptx"
            if ptx.exists():
                cases.append(Case(f"kernels/{build.name}/{host.name}", [str(host), str(ptx)], speaks="output"))
    return cases


def capability(context):
    """The device's compute capability as in names of targets: 90 for 9.0."""
    told = subprocess.run([context.probe, "--check", "device"], capture_output=True, text=True).stdout
    found = re.search(r"^fact\tcompute capability\t(\d+)\.(\d+)", told, re.MULTILINE)
    return int(found[1]) * 10 + int(found[2]) if found else 0


def build_programs(work):
    """The folder of the programs: those that `make programs` built, or else built here."""
    ready = machine.ROOT / "target/programs"
    if (ready / BUILDS[0]).exists():
        return ready
    built = Path(work) / "programs"
    command = ["make", "--no-print-directory", "--silent", "-C", PROGRAMS, f"OUT={built}", f"-j{os.cpu_count()}"]
    targets = ["driver"]
    if machine.nvcc():
        # The Makefile's layout of a toolkit, made of one that is installed.
        toolkit = Path(machine.nvcc()).resolve().parents[1]
        layout = Path(work) / "toolchain/cu13"
        layout.mkdir(parents=True, exist_ok=True)
        for name, found in (("bin", "bin"), ("include", "include"), ("lib", "lib64")):
            if not (layout / name).exists():
                (layout / name).symlink_to(toolkit / found)
        command += [f"TOOLCHAIN={layout.parent}", "builds=" + " ".join(BUILDS), "nvrtc="]
        targets += ["cuda", "kernels"]
    subprocess.run([*command, "--keep-going", *targets], check=False)
    return built


def runtime(context):
    """Lets the loader find the shared runtime behind the driver."""
    for lib in (machine.ROOT / "target/cuda-toolchain/cu13/lib", context.work / "toolchain/cu13/lib"):
        if lib.exists():
            return (lib,)
    return ()


def pytorch(_):
    return [
        torch("torch_matmul.py"),
        torch("torch_resnet.py", "train", needs=("torchvision",)),
        torch("torch_resnet.py", "infer", needs=("torchvision",)),
        torch("torch_gpt2.py", "train", needs=("transformers",)),
        torch("torch_gpt2.py", "generate", needs=("transformers",)),
    ]


def pytorch_features(_):
    def allocator(setting):
        return {"PYTORCH_CUDA_ALLOC_CONF": setting, "PYTORCH_ALLOC_CONF": setting}

    return [
        torch("torch_compile.py"),
        torch("torch_graphs.py"),
        torch("torch_allocations.py", name="allocations, default"),
        torch(
            "torch_allocations.py", name="allocations, expandable segments",
            environment=allocator("expandable_segments:True"),
        ),
        torch(
            "torch_allocations.py", name="allocations, cudaMallocAsync",
            environment=allocator("backend:cudaMallocAsync"),
        ),
        torch("torch_loader.py"),
    ]


def other_clients(_):
    jax = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return [
        python("cupy_arrays.py", needs=("cupy", "sass")),
        python("cupy_arrays.py", name="cupy_arrays, PTX", needs=("cupy",), environment={"CUPY_COMPILE_WITH_PTX": "1"}),
        python("jax_arrays.py", needs=("jax", "sass"), environment=jax),
        python("triton_kernels.py", needs=("torch", "triton", "sass")),
        python("numba_kernels.py", needs=("numba",)),
        torch("torch_nccl.py"),
    ]


def costs(context):
    probe = context.probe
    checks = [("context", 60), ("costs", 120), ("copies", 120)]
    return [Case(f"probe {name}", [probe, "--check", name], speaks="probe", seconds=each) for name, each in checks] + [
        torch("torch_loop.py", "large"),
        torch("torch_loop.py", "small"),
    ]


def several(context):
    cases = []
    for copies in (2, 4):
        for spread, where in ((False, "one zone"), (True, "a zone each")):
            cases.append(torch("torch_loop.py", "small", name=f"{copies} loops, {where}", copies=copies, spread=spread))
    matmul = build_programs(context.work) / BUILDS[0] / "matmul"
    if matmul.exists():
        for copies in (2, 4):
            cases.append(Case(f"{copies} matmul, a zone each", [str(matmul)], speaks="output", copies=copies, spread=True))
    return cases


def calls(context):
    """Every declared function, called rightly and wrongly, a case for each word that names begin with."""
    program = machine.binaries() / "vgpu-test-calls"
    if not program.exists():
        return [Case("codes", [], needs=("vgpu-test-calls",))]
    # Each run makes its record anew, with the cases that it was asked for.
    context.record.write_text(f"# What the driver of {context.device} answers: STATE FUNCTION CASE -> CODE\n")
    environment = {
        "CODES_RECORD": str(context.record), "PYTHONPATH": str(HERE), "VGPU_LOG": "off", "SOFTGPU_LOG": "off",
    }
    cases = []
    for word, names in groupby(sorted(codes.functions(program)), lambda name: re.match("cu[A-Z][a-z]*", name)[0]):
        command = [sys.executable, "-m", "suite.codes", str(program), *names]
        cases.append(Case(f"codes {word}*", command, speaks="output", environment=environment))
    return cases


PARTS = {
    1: ("our own programs", programs),
    2: ("PyTorch, training and inference", pytorch),
    3: ("PyTorch, compilation, graphs, allocators, loader", pytorch_features),
    4: ("other clients", other_clients),
    5: ("what calls, copies and steps cost", costs),
    6: ("several clients at once", several),
    7: ("the code of every call, right or wrong", calls),
}
