"""A picture of each report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.drawing import INK, LIMIT, OTHERS, OURS, SHADES, STYLE, bars, plain
from benchmarks.end_to_end import GOAL
from benchmarks.mixed import CONTINUOUS, EQUAL, STATIC
from benchmarks.report import Report
from benchmarks.subject import Subject

_WAYS: Final = {CONTINUOUS: OURS, EQUAL: "#e0a030", STATIC: "#8a6bb1"}
#: What of the timed engine is its schedule alone.
_VIRTUAL: Final = {"mixed", "capped"}
_MARKS: Final = {"encode": "^", "unet": "o", "decode": "s"}
#: A part of a bar that is smaller than this share of the longest bears no number.
_LEGIBLE: Final = 0.05


def draw(name: str, report: Report, subject: Subject, folder: Path) -> Path | None:
    """Draw a report, if there is a picture for it; returns where it lies."""
    if name not in PICTURES:
        return None
    path = folder / f"engine-{subject.name}-{name}.png"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5))
        PICTURES[name](figure, report)
        figure.text(0.995, 0.005, _device(subject, name), ha="right", va="bottom", fontsize=7.5)
        figure.set_layout_engine("constrained", rect=(0, 0.03, 1, 0.97))
        figure.savefig(path)
    return path


def _device(subject: Subject, name: str) -> str:
    if subject.is_timed and name in _VIRTUAL:
        return "timed engine: a model of a GPU, in virtual time"
    if subject.is_timed:
        rest = ", S3 and Postgres" if name == "end-to-end" else ""
        return f"timed engine: a model of a GPU, real CPU and GIL{rest}"
    if name == "cold-start":
        return subject.name
    return f"{subject.name}, {subject.size} model with random weights"


def _bare(figure: Figure, report: Report) -> None:
    rates: Mapping[str, float] = report.details["images_per_second"]
    axes = figure.add_subplot()
    side, steps = report.details["side"], report.details["steps"]
    axes.set_title(f"Pictures a second, {side} to {2 * side} px, {steps} steps")
    colours = [OURS if name.startswith("engine") else OTHERS for name in rates]
    bars(axes, rates, colours, "{:.3g}")
    axes.set_xlabel("images/s")


def _mixed(figure: Figure, report: Report) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    rates: Mapping[str, float] = report.details["images_per_second"]
    low, high = report.details["range_of_steps"]
    left.set_title(f"{low} to {high} steps, mixed")
    short = {CONTINUOUS: "continuous", EQUAL: "static,\nequal steps", STATIC: "static"}
    bars(left, {short[k]: v for k, v in rates.items()}, [_WAYS[k] for k in rates], "{:.3g}")
    left.set_xlabel("images/s, with a backlog")
    if "arrivals" in report.details:
        right.set_title("Waiting and work, 95th percentile")
        for way, points in report.details["arrivals"].items():
            right.plot(
                [p["per_second"] for p in points],
                [p["p95"] for p in points],
                marker="o",
                markersize=4,
                color=_WAYS[way],
                label=way,
            )
        right.set_yscale("log")
        plain(right.yaxis)
        right.set_xlabel("arrivals, images/s")
        right.set_ylabel("seconds, log scale")
        right.grid(visible=True, which="major")
        right.legend(loc="upper left", fontsize=9)
        return
    right.set_title("Sizes, continuous")
    sizes: Mapping[str, float] = report.details["megapixels_per_second"]
    names = {name: name.replace(" of sizes", "\nof sizes") for name in sizes}
    bars(right, {names[k]: v for k, v in sizes.items()}, [OTHERS, OURS], "{:.3g}")
    right.set_xlabel("Mpx/s of results")


def _end_to_end(figure: Figure, report: Report) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    formats: Mapping[str, Mapping[str, Any]] = report.details["formats"]
    left.set_title("Of the bare engine's rate")
    shares = {kind: 100 * one["efficiency"] for kind, one in formats.items()}
    colours = [OURS if share >= 100 * GOAL else OTHERS for share in shares.values()]
    bars(left, shares, colours, "{:.1f}")
    left.axvline(100 * GOAL, color=LIMIT, linewidth=1.2)
    left.set_xlim(0, max(118.0, 1.15 * max(shares.values())))
    left.annotate(
        f"{GOAL:.0%}",
        (100 * GOAL, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        color=LIMIT,
        fontsize=9,
    )
    left.set_xlabel("percent")
    right.set_title("Jobs that have ended")
    last = 0.0
    for number, (kind, one) in enumerate(formats.items()):
        ends = one["ends"]
        shade = SHADES[number % len(SHADES)]
        right.plot(ends, range(1, len(ends) + 1), color=shade, linewidth=1.3, label=kind)
        last = max(last, ends[-1])
    bare = report.details["bare_images_per_second"]
    most = max(len(one["ends"]) for one in formats.values())
    right.plot([0, most / bare], [0, most], color=INK, linewidth=0.9, linestyle="--", label="bare")
    right.set_xlabel("seconds since the first")
    right.set_ylabel("jobs")
    right.grid(visible=True)
    right.legend(loc="lower right", fontsize=9)


def _memory(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    axes.set_title("Peak memory: how far the plan is off")
    axes.axhline(0, color=INK, linewidth=0.8)
    for (stage, mark), colour in zip(_MARKS.items(), SHADES, strict=False):
        own = [row for row in report.rows if row["stage"] == stage]
        for is_new, fill in ((False, colour), (True, "none")):
            shown = [row for row in own if (row["the plan's own"] == "no") is is_new]
            if not shown:
                continue
            measured = [float(str(row["measured MiB"])) for row in shown]
            predicted = [float(str(row["predicted MiB"])) for row in shown]
            axes.plot(
                measured,
                [100 * (p / m - 1) for p, m in zip(predicted, measured, strict=True)],
                linestyle="",
                marker=mark,
                color=colour,
                markerfacecolor=fill,
                label=f"{stage}, {'not in the plan' if is_new else 'in the plan'}",
            )
    axes.set_xscale("log")
    plain(axes.xaxis)
    axes.margins(y=0.15)
    axes.set_xlabel("measured, MiB, log scale")
    axes.set_ylabel("predicted against measured, percent")
    axes.grid(visible=True)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)


def _capped(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    failed, gib = report.figures["jobs_failed_under_cap"], report.details["cap_bytes"] / 2**30
    axes.set_title(f"{report.details['jobs']} jobs on {gib:.0f} GiB, {failed:.0f} of them failed")
    sizes = {str(row["source"]): float(str(row["jobs"])) for row in report.rows}
    bars(axes, sizes, [OURS] * len(sizes), "{:.0f}")
    axes.set_xlabel("jobs")
    axes.set_ylabel("source")


def _dispatch(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    axes.set_title("One tiny torch operation beside a thread that encodes")
    names = [str(row["beside"]) for row in report.rows]
    for offset, column, colour, label in (
        (-0.2, "median us", OURS, "median"),
        (0.2, "p99 us", OTHERS, "99th percentile"),
    ):
        places = [number + offset for number in range(len(names))]
        values = [float(str(row[column])) for row in report.rows]
        drawn = axes.barh(places, values, height=0.38, color=colour, label=label)
        axes.bar_label(drawn, [f"{value:.2f}" for value in values], padding=4, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("microseconds")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _cold_start(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    axes.set_title(f"Seconds to the first picture, {report.details['model']}")
    starts: Mapping[str, Mapping[str, float]] = report.details["phases"]
    left = dict.fromkeys(starts, 0.0)
    phases = list(dict.fromkeys(phase for each in starts.values() for phase in each))
    for number, phase in enumerate(phases):
        for start, seconds in starts.items():
            drawn = axes.barh(
                start,
                seconds.get(phase, 0.0),
                left=left[start],
                height=0.5,
                color=SHADES[number % len(SHADES)],
                label=phase if start == next(iter(starts)) else None,
            )
            left[start] += seconds.get(phase, 0.0)
            if seconds.get(phase, 0.0) > _LEGIBLE * max(sum(p.values()) for p in starts.values()):
                axes.bar_label(drawn, fmt="%.1f", label_type="center", color="white", fontsize=9)
    for start, total in left.items():
        axes.annotate(
            f"{total:.1f}", (total, start), (5, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.2)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("seconds")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)


PICTURES: Final[dict[str, Callable[[Figure, Report], None]]] = {
    "bare": _bare,
    "mixed": _mixed,
    "end-to-end": _end_to_end,
    "memory": _memory,
    "capped": _capped,
    "dispatch": _dispatch,
    "cold-start": _cold_start,
}
