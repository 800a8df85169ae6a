"""A case: one program run on both sides, and what must be the same.

A program of ours prints what it found, a line each:

    value NAME NUMBER [TOLERANCE]   must be the same on both sides, within TOLERANCE relatively (default 0)
    time NAME NUMBER UNIT           less is better; reported as remoted over native
    rate NAME NUMBER UNIT           more is better; reported as remoted over native

Of any other program the whole standard output must be the same, and of every program the exit code.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field


@dataclass
class Case:
    name: str
    command: list
    needs: tuple = ()
    seconds: int = 150
    environment: dict = field(default_factory=dict)
    # Folders for the loader behind that of the driver.
    libraries: tuple = ()
    # "lines": the protocol above. "output": all of it is compared. "probe": numbers of the assumptions probe.
    speaks: str = "lines"
    # How many at once, each in the first zone or in one of its own.
    copies: int = 1
    spread: bool = False


@dataclass
class Side:
    code: object
    seconds: float
    output: str
    errors: str
    values: dict = field(default_factory=dict)
    measures: dict = field(default_factory=dict)


@dataclass
class Outcome:
    case: Case
    native: Side = None
    remoted: Side = None
    verdict: str = ""
    reasons: list = field(default_factory=list)


def run(case, sides):
    """Runs both sides, native first."""
    native = run_side(case, sides, remoted=False)
    sides.settle()
    remoted = run_side(case, sides, remoted=True)
    outcome = Outcome(case, native, remoted)
    compare(outcome)
    return outcome


def run_side(case, sides, remoted):
    processes = []
    began = time.monotonic()
    for copy in range(case.copies):
        environment = sides.environment(remoted, copy if case.spread else 0, case.libraries) | case.environment
        processes.append(
            subprocess.Popen(
                case.command, env=environment, cwd=sides.work, text=True, errors="replace", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )
    # Copies print a few lines each, which a pipe holds until it is their turn.
    each = [finish(process, began + case.seconds) for process in processes]
    return merge(case, each, time.monotonic() - began)


def finish(process, deadline):
    try:
        output, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        return process.returncode, output, errors
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        return "hung", output, errors


def merge(case, each, seconds):
    """One side out of its copies: rates add up, times are the longest."""
    bad = next((code for code, _, _ in each if code != 0), 0)
    side = Side(bad, seconds, "\n".join(o for _, o, _ in each), "\n".join(e for _, _, e in each))
    for copy, (_, output, _) in enumerate(each):
        for line in output.splitlines():
            word = line.split("\t") if case.speaks == "probe" else line.split()
            if case.speaks == "probe" and len(word) == 4 and word[0] == "number":
                side.measures[word[1]] = ("time" if word[3] != "GB/s" else "rate", float(word[2]), word[3])
            elif case.speaks == "lines" and len(word) >= 3 and word[0] == "value":
                tolerance = float(word[3]) if len(word) > 3 else 0.0
                side.values[f"{word[1]}#{copy}" if case.copies > 1 else word[1]] = (float(word[2]), tolerance)
            elif case.speaks == "lines" and len(word) == 4 and word[0] in ("time", "rate"):
                kind, known = word[0], side.measures.get(word[1], (None, 0.0))[1]
                number = known + float(word[2]) if kind == "rate" else max(known, float(word[2]))
                side.measures[word[1]] = (kind, number, word[3])
    return side


def compare(outcome):
    native, remoted, reasons = outcome.native, outcome.remoted, outcome.reasons
    if native.code != remoted.code:
        reasons.append(f"exit code {native.code} natively, {remoted.code} remoted")
    elif native.code != 0:
        # Wrong on both sides is no fault of the proxy, and shows nothing either.
        outcome.verdict = "FAILS NATIVELY"
        reasons.append(f"exit code {native.code} on both sides")
        return
    if outcome.case.speaks == "output" and native.output != remoted.output:
        reasons.append(first_difference(native.output, remoted.output))
    for name in sorted(native.values.keys() | remoted.values.keys()):
        if name not in native.values or name not in remoted.values:
            reasons.append(f"{name} is printed on one side only")
            continue
        (mine, tolerance), (theirs, _) = native.values[name], remoted.values[name]
        if not abs(mine - theirs) <= tolerance * max(abs(mine), abs(theirs)):
            reasons.append(f"{name}: {mine!r} natively, {theirs!r} remoted")
    if outcome.case.speaks == "lines" and native.code == 0 and not native.values:
        reasons.append("the program printed no value to compare")
    outcome.verdict = "DIFFERS" if reasons else "same"


def first_difference(native, remoted):
    mine, theirs = native.splitlines(), remoted.splitlines()
    for number, (left, right) in enumerate(zip(mine, theirs), 1):
        if left != right:
            return f"line {number}: {left!r} natively, {right!r} remoted"
    return f"{len(mine)} lines natively, {len(theirs)} remoted"
