"""What this machine has: the project's binaries, a driver, compilers, Python packages."""

import importlib.util
import os
import shutil
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def binaries():
    """The folder of gpu-proxy, vgpu-worker, vgpuctl and libcuda.so, or None."""
    chosen = os.environ.get("VGPU_BINARIES")
    folders = [Path(chosen)] if chosen else [ROOT / "target/release", ROOT / "target/debug"]
    for folder in folders:
        if all((folder / name).exists() for name in ("gpu-proxy", "vgpu-worker", "vgpuctl", "libcuda.so")):
            return folder.resolve()
    return None


def software_driver():
    """The driver library to take instead of the real one, or None."""
    chosen = os.environ.get("PROBE_LIBRARY")
    return Path(chosen).resolve() if chosen else None


@cache
def nvcc():
    """The command line's start of nvcc, or None."""
    found = shutil.which("nvcc")
    if found:
        return found
    carried = ROOT / "target/cuda-toolchain/cu13/bin/nvcc"
    return str(carried) if carried.exists() else None


@cache
def lacks(need):
    """Why `need` is not met here, or None: "nvcc", "sass" (machine code runs), one of our programs, or a Python module."""
    if need == "nvcc":
        return None if nvcc() else "no nvcc on PATH"
    if need == "sass":
        return "the software GPU runs no machine code" if software_driver() else None
    if need == "soft":
        return None if software_driver() else "only for the software GPU"
    if need.startswith("vgpu-"):
        return None if (binaries() / need).exists() else f"no {need} beside the project's binaries"
    if importlib.util.find_spec(need) is None:
        return f"no Python module {need}"
    return None
