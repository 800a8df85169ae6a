"""A pytest plugin: runs a client's own tests with our skip list, and says of each test how it ended.

    python -m pytest -p outcomes FILE...

OUTCOMES names the file that gets a line of each test, `passed NAME` or `failed NAME`, as it ends, so that what ran before a
crash is known. SKIPS names the skip list: lines of `PATTERN: REASON`, where the pattern (of fnmatch) is matched with
`FILE::CLASS::TEST`.
"""

import fnmatch
import os
import pathlib

import pytest


def skips():
    lines = pathlib.Path(os.environ["SKIPS"]).read_text().splitlines()
    rules = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return [(pattern.strip(), reason) for pattern, reason in rules]


def name(nodeid):
    """FILE::CLASS::TEST, with the file as it is called inside the suite."""
    path, *rest = nodeid.split("::", 1)
    for root in ("numba_cuda/numba/cuda/tests/", "suites/cupy/", "suites/tinygrad/"):
        path = path.rpartition(root)[2]
    return "::".join([path, *rest])


def say(outcome, nodeid):
    with open(os.environ["OUTCOMES"], "a") as out:
        out.write(f"{outcome} {name(nodeid)}\n")


def pytest_collection_modifyitems(items):
    rules = skips()
    for item in items:
        if item.get_closest_marker("multi_gpu"):
            item.add_marker(pytest.mark.skip(reason="needs several devices"))
        # CuPy marks those that take gigabytes, of the host's memory too.
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="marked slow by its authors"))
        for pattern, reason in rules:
            if fnmatch.fnmatchcase(name(item.nodeid), pattern):
                item.add_marker(pytest.mark.skip(reason=reason))
                break


def missing_library(error):
    """Whether a test ended because a library of machine code is not installed: cuBLAS, cuRAND, nvJitLink and such."""
    while error is not None:
        # CuPy's own checks quote the error that they saw.
        if "DynamicLibNotFoundError" in type(error).__name__ + str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and call.excinfo is not None and missing_library(call.excinfo.value):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, "Skipped: needs a library of machine code")
    return report


def pytest_collectreport(report):
    if report.failed:
        say("failed", report.nodeid)


def pytest_runtest_logreport(report):
    # A test counts by its call; one that is skipped or fails before has none.
    if report.when == "call" or report.outcome != "passed":
        say(report.outcome, report.nodeid)


@pytest.fixture(scope="class")
def initialize_from_pytest_config(request):
    """Asked for by numba-cuda's tests, whose sources have it beside the package."""
    request.cls._dump_failed_filechecks = False
