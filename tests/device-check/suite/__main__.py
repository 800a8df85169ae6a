"""Runs one part and writes its section of the report. Called by run.sh."""

import argparse
import platform
import os
import time
from dataclasses import dataclass
from pathlib import Path

from . import cases, machine, parts, report, sides

# A part ends within eight minutes, whatever its cases do: what is left then is reported as not run.
SECONDS = float(os.environ.get("PART_SECONDS", "450"))


@dataclass
class Context:
    work: Path
    probe: str
    device: str
    # Where part 7 keeps what the driver answers.
    record: Path


def main():
    arguments = parse()
    if arguments.last_part:
        print(max(parts.PARTS))
    elif arguments.list:
        for number, (title, _) in parts.PARTS.items():
            print(f"part {number}: {title}")
    elif arguments.insert:
        number, file = arguments.insert
        report.insert(arguments.report, int(number), Path(file).read_text())
    else:
        raise SystemExit(run_part(arguments))


def parse():
    parser = argparse.ArgumentParser(prog="device-check", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--last-part", action="store_true", help="print the highest number of a part")
    parser.add_argument("--insert", nargs=2, metavar=("PART", "FILE"), help="put a ready section into the report")
    parser.add_argument("--part", type=int, choices=sorted(parts.PARTS))
    parser.add_argument("--probe", help="the assumptions probe, built")
    parser.add_argument("--work", type=Path, help="a folder for what is made on the way")
    parser.add_argument("--device", help="the device's name")
    parser.add_argument("--report", help="the report's file")
    parser.add_argument("--only", default="", help="run only cases whose name holds this")
    return parser.parse_args()


def run_part(arguments):
    began = time.monotonic()
    title, make = parts.PARTS[arguments.part]
    print(f"part {arguments.part}: {title}", flush=True)
    soft = machine.software_driver() is not None
    record = Path(arguments.report).with_suffix("").with_name(Path(arguments.report).stem + "-codes.txt")
    context = Context(arguments.work, arguments.probe, arguments.device, record)
    only = os.environ.get("PART_CASES", "") or arguments.only
    outcomes = []
    with sides.Sides(arguments.work, "1GiB" if soft else "32GiB", "256MiB" if soft else "8GiB", zones=4) as both:
        todo = [case for case in make(context) if only in case.name]
        for number, case in enumerate(todo, 1):
            outcome = one(case, both, began)
            outcomes.append(outcome)
            told = outcome.verdict or "not run"
            print(f"  [{number}/{len(todo)}] {case.name}: {told} {'; '.join(outcome.reasons)}"[:400], flush=True)
    lines = (
        f"{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, {os.cpu_count()} CPUs,"
        f" {'the software GPU as the driver' if soft else 'the real driver'}."
        f" Made by `make device-check PART={arguments.part}` (`tests/device-check`)."
    )
    report.insert(
        arguments.report, arguments.part, report.section(arguments.part, title, arguments.device, lines, outcomes)
    )
    ran = [outcome for outcome in outcomes if outcome.native is not None]
    bad = [outcome for outcome in ran if outcome.verdict != "same"]
    print(f"part {arguments.part}: {len(ran) - len(bad)} of {len(ran)} the same, {len(outcomes) - len(ran)} not run")
    return 1 if bad else 0


def one(case, both, began):
    outcome = cases.Outcome(case)
    missing = [reason for reason in map(machine.lacks, case.needs) if reason]
    left = SECONDS - (time.monotonic() - began)
    if missing:
        outcome.reasons.append(missing[0])
    elif left < 15:
        outcome.reasons.append("the part's time was up")
    else:
        case.seconds = min(case.seconds, left / 2)
        outcome = cases.run(case, both)
    return outcome


if __name__ == "__main__":
    main()
