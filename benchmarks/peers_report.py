"""The peer benchmark's result as text: tables in Markdown, readable as they are."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from networks import NETWORKS, arithmetic

Facts = Mapping[str, Any]


def medians(row: Facts) -> dict[str, float]:
    """Each contender's seconds for one image."""
    return {key: statistics.median(samples) for key, samples in row["seconds_per_image"].items()}


def best_of_library(row: Facts, libraries: Mapping[str, str]) -> dict[str, float]:
    """The seconds for one image of each library's faster way."""
    best: dict[str, float] = {}
    for key, seconds in medians(row).items():
        library = libraries[key]
        best[library] = min(seconds, best.get(library, seconds))
    return best


def best_peer(row: Facts, libraries: Mapping[str, str]) -> str:
    """How many times the time of cnnrs the fastest peer takes, and which peer that is."""
    times = best_of_library(row, libraries)
    ours = times.pop("cnnrs")
    if not times:
        return ""
    name = min(times, key=lambda library: times[library])
    return f"{name} {times[name] / ours:.1f}x"


def shares_of_peak(row: Facts, instruction_set: str) -> tuple[float, float] | None:
    """What cnnrs reaches of one core's peak: counted as the layers are written, and as executed."""
    if not row["fma_peak_gflops"]:
        return None
    peak = statistics.median(row["fma_peak_gflops"]) * 1e9
    network, training = NETWORKS[row["network"]], row["task"] == "train"
    foreground = row.get("foreground_share")
    count = arithmetic(
        network,
        training=training,
        instruction_set=instruction_set,
        live=row["live_shares"] or (),
        foreground=1.0 if foreground is None else foreground,
    )
    seconds = medians(row)["cnnrs"]
    return count.dense / seconds / peak, count.executed / seconds / peak


def report(facts: Facts) -> str:
    """All of it."""
    parts = [_head(facts)]
    parts += [_times(facts, run) for run in facts["runs"]]
    parts += [_memory(facts), _faults(facts)]
    return "\n\n".join(part for part in parts if part)


def _head(facts: Facts) -> str:
    machine = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    loads = f"{machine['load'][0]:.1f} before, {machine['load_at_the_end'][0]:.1f} after"
    return (
        f"{machine['processor']}, {machine['cpus']} cores, {machine['system']}, "
        f"Python {machine['python']}, {versions}\n"
        f"Data: {facts['data']}\n"
        f"Medians of {facts['repeats']} repeats of {facts['seconds']} s; load {loads}"
    )


def _times(facts: Facts, run: Facts) -> str:
    """One run's table; shares of a core's peak only where there is one core."""
    titles, alone = facts["titles"], run["threads"] == 1
    lines = [["network, task, batch", *titles.values(), "best peer / cnnrs"]]
    if alone:
        lines[0] += ["dense-equivalent", "executed", "live"]
    for row in run["rows"]:
        times = medians(row)
        line = [f"{row['network']}, {row['task']}, {row['batch']}"]
        line += [_microseconds(times.get(key)) for key in titles]
        line.append(best_peer(row, facts["libraries"]))
        if alone:
            shares = shares_of_peak(row, facts["versions"]["instruction set"])
            line += [f"{share:.0%}" for share in shares] if shares else ["n/a", "n/a"]
            line.append(", ".join(f"{share:.0%}" for share in row["live_shares"] or ()))
        lines.append(line)
    note = f"\n\n{_note(run)}" if alone else ""
    return f"Microseconds for one image, {run['threads']} thread(s):\n\n{_table(lines)}{note}"


def _note(run: Facts) -> str:
    peaks = [peak for row in run["rows"] for peak in row["fma_peak_gflops"]]
    peak = f"{min(peaks):.0f} to {max(peaks):.0f} GFLOP/s" if peaks else "not measured"
    return (
        f"Shares: what cnnrs reaches of the core's peak (between the repeats: {peak}).\n"
        "The dense-equivalent counts the layers' arithmetic as written. What is executed leaves\n"
        "out what the pooling drops, takes 16 products for 36 (3x3; first layer 24) or 6 for 10\n"
        "(5x5) where Winograd's filtering serves, and a quarter of each convolution's gradients,\n"
        "but for the first layer times its live share. In training the tutorial's network leaves\n"
        "out windows that see the background only; networks.py has the formula."
    )


def _memory(facts: Facts) -> str:
    heads = [f"{run['threads']} thread(s)" for run in facts["runs"]]
    lines = [["peak memory over all rows, MB", *heads]]
    for key, title in facts["titles"].items():
        peaks = [run["memory"].get(key) for run in facts["runs"]]
        lines.append([title, *("" if peak is None else f"{peak / 1e6:.0f}" for peak in peaks)])
    return _table(lines)


def _faults(facts: Facts) -> str:
    return "\n".join(
        f"NOT MEASURED: {facts['titles'][key]} on {row['network']}, {row['task']}, batch "
        f"{row['batch']}, {run['threads']} thread(s): {fault}"
        for run in facts["runs"]
        for row in run["rows"]
        for key, fault in row["faults"].items()
    )


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:,.1f}" if seconds < 1e-4 else f"{seconds * 1e6:,.0f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first line is the head; the first column is text, the rest figures."""
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text = []
    for line in [lines[0], rule, *lines[1:]]:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)
