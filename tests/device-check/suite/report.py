"""The day's report: one section a part, each replaced when its part runs again."""

import re
from pathlib import Path

MARK = "<!-- part {} -->"


def insert(report, part, section):
    """Puts `section` in the place of the part's own, in the order of parts."""
    report = Path(report)
    sections = {}
    if report.exists():
        pieces = re.split(r"<!-- part (\d+) -->\n", report.read_text())
        sections = {int(number): text for number, text in zip(pieces[1::2], pieces[2::2])}
    sections[part] = section.rstrip() + "\n\n"
    text = "".join(MARK.format(number) + "\n" + sections[number] for number in sorted(sections))
    report.write_text(text.rstrip() + "\n")


def section(part, title, device, lines, outcomes):
    """Markdown of one part."""
    out = [f"# Part {part}: {title}", "", f"On {device}. " + lines, ""]
    out += ["| case | native | remoted | verdict | seconds, native | seconds, remoted |", "|---|---|---|---|---:|---:|"]
    for outcome in outcomes:
        native, remoted = outcome.native, outcome.remoted
        if native is None:
            out.append(f"| {outcome.case.name} | - | - | not run: {'; '.join(outcome.reasons)} | | |")
            continue
        out.append(
            f"| {outcome.case.name} | {code(native)} | {code(remoted)} | {bold(outcome.verdict)} |"
            f" {native.seconds:.1f} | {remoted.seconds:.1f} |"
        )
    out.append("")
    out += measures(outcomes)
    for outcome in outcomes:
        if outcome.native is not None and outcome.verdict != "same":
            out += [f"## {outcome.case.name}: {outcome.verdict}", ""]
            out += [f"- {cell(reason)}" for reason in outcome.reasons]
            for name, side in (("native", outcome.native), ("remoted", outcome.remoted)):
                tail = [line[:300] for line in side.errors.strip().splitlines()[-15:]]
                if tail:
                    out += ["", f"Standard error, {name}:", "", "```", *tail, "```"]
            out.append("")
    return "\n".join(out)


def measures(outcomes):
    rows = []
    for outcome in outcomes:
        if outcome.native is None:
            continue
        for name, (kind, native, unit) in outcome.native.measures.items():
            remoted = outcome.remoted.measures.get(name)
            if remoted is None:
                continue
            ratio = f"{remoted[1] / native:.3f}" if native > 0 else "-"
            better = "more" if kind == "rate" else "less"
            rows.append(
                f"| {outcome.case.name}: {cell(name)} | {native:.4g} | {remoted[1]:.4g} | {unit} | {ratio} | {better} |"
            )
    if not rows:
        return []
    head = "| measured | native | remoted | unit | remoted over native | better is |\n|---|---:|---:|---|---:|---|"
    return [head, *rows, ""]


def code(side):
    return "ok" if side.code == 0 else str(side.code)


def bold(verdict):
    return verdict if verdict == "same" else f"**{verdict}**"


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")
