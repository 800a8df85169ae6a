"""Runs `vgpu-test-calls` for some functions and prints the code of every case: `STATE FUNCTION CASE -> CODE`.

    python3 -m suite.codes PROGRAM FUNCTION...

A case that ends the process, or that leaves the context lost, is followed by the next in a new one. With the
driver itself (no proxy), `CODES_RECORD` names a file that the codes are added to: what a driver answers, for
the software GPU to be compared with (`tests/calls.rs`). Cases that `tests/calls-known.txt` names are in the
record and not printed, for the two sides differ in them.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import machine

STATES = ("before", "bare", "ready")
# One process; a call that hangs is a code, too.
SECONDS = 20


def functions(program):
    """Names of the functions that there are cases of."""
    told = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    return told.stdout.split()


def codes_of(program, state, function):
    # Some of them write files.
    with tempfile.TemporaryDirectory() as folder:
        return codes_told_in(folder, os.path.abspath(program), state, function)


def codes_told_in(folder, program, state, function):
    lines, first = [], 0
    while first is not None:
        try:
            ran = subprocess.run(
                [program, state, function, str(first)], text=True, errors="replace", timeout=SECONDS, cwd=folder,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            output, ended = ran.stdout, f"signal {-ran.returncode}" if ran.returncode < 0 else f"exit {ran.returncode}"
        except subprocess.TimeoutExpired as hung:
            output, ended = (hung.stdout or b"").decode(errors="replace"), "hung"
        first, more = collect(output, ended, state, first)
        lines += more
    return lines


def collect(output, ended, state, first):
    """What one process told, and the case to go on with if it did not come to its end."""
    told = []
    for line in output.splitlines():
        if line == "end":
            return None, told
        case, _, code = line.partition(" -> ")
        index, _, name = case.partition(" ")
        told.append(f"{state} {name} -> {code or ended}")
        first = int(index) + 1
    if not told:
        # It cannot even begin: nothing that comes after would.
        return None, [f"{state}: cannot begin: {ended}"]
    return first, told


def known():
    lines = (machine.ROOT / "tests/calls-known.txt").read_text().splitlines()
    return [line.split(": ")[0] for line in lines if line and not line.startswith("#")]


def is_known(line, patterns):
    case = line.split(" -> ")[0]
    return any(case.startswith(p[:-1]) if p.endswith("*") else case == p for p in patterns)


def main():
    program, *names = sys.argv[1:]
    jobs = [(state, name) for name in names for state in STATES]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        lines = [line for told in pool.map(lambda job: codes_of(program, *job), jobs) for line in told]
    record = os.environ.get("CODES_RECORD")
    if record and "VGPU_SOCKET" not in os.environ:
        with open(record, "a") as file:
            file.writelines(line + "\n" for line in lines)
    patterns = known()
    print("\n".join(line for line in lines if not is_known(line, patterns)))
    return 1 if any("cannot begin" in line for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
