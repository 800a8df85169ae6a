"""How a client says what it found; `suite/cases.py` reads it."""

import statistics
import time as clock


def value(name, number, tolerance=0.0):
    """Must be the same natively and remoted, within `tolerance` relatively."""
    print("value", name.replace(" ", "_"), repr(float(number)), tolerance, flush=True)


def time(name, number, unit="s"):
    print("time", name.replace(" ", "_"), float(number), unit, flush=True)


def rate(name, number, unit):
    print("rate", name.replace(" ", "_"), float(number), unit, flush=True)


def check(condition, what):
    """Ends the program unless it holds: a result that is wrong on both sides would compare as equal."""
    if not condition:
        raise SystemExit(f"wrong: {what}")


def median_seconds(run, synchronize, rounds=5, warm=2):
    """Of `run`, with the device idle before and after."""
    for _ in range(warm):
        run()
    synchronize()
    times = []
    for _ in range(rounds):
        began = clock.perf_counter()
        run()
        synchronize()
        times.append(clock.perf_counter() - began)
    return statistics.median(times)
