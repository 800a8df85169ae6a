"""The two sides of every comparison: a program on the driver itself, and through the proxy."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from . import machine

# Where programs keep what they compiled: each side has its own, so that each compiles for itself.
CACHES = {
    "CUDA_CACHE_PATH": "cuda",
    "CUPY_CACHE_DIR": "cupy",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "XDG_CACHE_HOME": "xdg",
}


class Sides:
    """Both environments, and the proxy as long as the `with` block lasts."""

    def __init__(self, work, memory, pinned, zones=1):
        self.work = Path(work)
        self.binaries = machine.binaries()
        if self.binaries is None:
            raise SystemExit(
                "device-check: no gpu-proxy, vgpu-worker, vgpuctl and libcuda.so in target/release or target/debug: build"
                " them (cargo build --release) or name their folder in VGPU_BINARIES"
            )
        self.memory, self.pinned, self.zones = memory, pinned, zones
        self.run = self.work / "run"
        self.log = self.work / "proxy.log"
        self.proxy = None

    def __enter__(self):
        self.run.mkdir(parents=True, exist_ok=True)
        soft = machine.software_driver()
        link(self.work / "remoted/libcuda.so.1", self.binaries / "libcuda.so")
        nvml = self.binaries / "libnvidia_ml.so"
        if nvml.exists():
            link(self.work / "remoted/libnvidia-ml.so.1", nvml)
        if soft:
            link(self.work / "native/libcuda.so.1", soft)
        (self.work / "gpu-proxy.toml").write_text(self.configuration(soft))
        with open(self.log, "wb") as log:
            self.proxy = subprocess.Popen(
                [self.binaries / "gpu-proxy", "serve", "--config", self.work / "gpu-proxy.toml"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not all(self.socket(zone).exists() for zone in range(self.zones)):
            if self.proxy.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise SystemExit("device-check: gpu-proxy did not start:\n" + self.log.read_text(errors="replace"))
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self.proxy and self.proxy.poll() is None:
            self.proxy.terminate()
            try:
                self.proxy.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.proxy.pid, signal.SIGKILL)
                self.proxy.wait()

    def settle(self):
        """Waits until no client is left: what one gives back at its end must not show in the next one."""
        command = [self.binaries / "vgpuctl", "status", "--json", "--socket", self.run / "admin.sock"]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            told = subprocess.run(command, capture_output=True, text=True)
            if told.returncode == 0 and not any(zone["clients"] for zone in json.loads(told.stdout)["zones"]):
                return
            time.sleep(0.02)

    def configuration(self, soft):
        text = f'[proxy]\nruntime_dir = "{self.run}"\nworker = "{self.binaries}/vgpu-worker"\n\n[driver]\n'
        text += f'kind = "softgpu"\nlibrary = "{soft}"\n' if soft else 'kind = "nvidia"\n'
        if not (self.binaries / "vgpu-monitor").exists():
            text += '\n[monitor]\nmode = "off"\n'
        for zone in range(self.zones):
            text += f'\n[[zone]]\nname = "check{zone}"\nmemory = "{self.memory}"\npinned = "{self.pinned}"\n'
            text += "clients = 16\nwarm_workers = 1\n"
        return text

    def socket(self, zone=0):
        return self.run / f"check{zone}" / "gpu.sock"

    def environment(self, remoted, zone=0, libraries=()):
        """Of a program on one side: what the two differ in is the driver that the loader finds, and caches."""
        side = "remoted" if remoted else "native"
        environment = dict(os.environ)
        # The probe would take it for the driver on both sides.
        environment.pop("PROBE_LIBRARY", None)
        search = [str(self.work / side)] if remoted or machine.software_driver() else []
        search += [str(path) for path in libraries if path]
        search += [path for path in environment.get("LD_LIBRARY_PATH", "").split(":") if path]
        environment["LD_LIBRARY_PATH"] = ":".join(search)
        for name, folder in CACHES.items():
            environment[name] = str(self.work / "cache" / side / folder)
        if remoted:
            environment["VGPU_SOCKET"] = str(self.socket(zone))
            # Triton asks the loader's cache first, which knows the machine's own driver only.
            environment["TRITON_LIBCUDA_PATH"] = str(self.work / "remoted")
        return environment


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
