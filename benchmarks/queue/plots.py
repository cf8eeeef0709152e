"""A picture of each report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from benchmarks.drawing import INK, LIMIT, OTHERS, OURS, STYLE, bars, plain
from benchmarks.report import Report

#: The bars of the promises, as shares of what is compared.
_OF_COPY, _OF_COPY_AGAIN, _HELD, _OVERVIEW_MS, _FLAT = 0.7, 0.3, 0.5, 5.0, 1.3


def draw(name: str, report: Report, machine: Mapping[str, Any], folder: Path) -> Path:
    """Draw a report; returns where the picture lies."""
    path = folder / f"queue-{name}.png"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5))
        PICTURES[name](figure, report)
        postgres = machine["postgres"]
        figure.text(
            0.995,
            0.005,
            f"{machine['size']} size, {machine['cores']} cores, "
            f"Postgres {postgres['server_version'].split()[0]}, fsync {postgres['fsync']}",
            ha="right",
            va="bottom",
            fontsize=7.5,
        )
        figure.set_layout_engine("constrained", rect=(0, 0.03, 1, 0.97))
        figure.savefig(path)
    return path


def _ours(names: Mapping[str, float]) -> list[str]:
    return [OURS if name.startswith("twofold") else OTHERS for name in names]


def _submit(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    rates: Mapping[str, float] = report.details["jobs_per_second"]
    axes.set_title(f"Bulk submit of {report.details['jobs']:,} jobs")
    bars(axes, rates, _ours(rates), "{:,.0f}")
    copy = rates["COPY of the same tuples"]
    for share, row in ((_OF_COPY, 0), (_OF_COPY_AGAIN, 1)):
        axes.plot([share * copy] * 2, [row - 0.42, row + 0.42], color=LIMIT, linewidth=1.6)
    axes.set_xlabel("jobs/s; red: what is promised")


def _claim_complete(figure: Figure, report: Report) -> None:
    rates: Mapping[str, Mapping[int, float]] = report.details["jobs_per_second"]
    clients = list(next(iter(rates.values())))
    every = figure.subplots(1, len(clients), sharey=True, squeeze=False)[0]
    for axes, count in zip(every, clients, strict=True):
        axes.set_title(f"{count} client{'s' if count > 1 else ''}")
        own = {name.replace(", 32 a claim", ""): found[count] for name, found in rates.items()}
        own = {name.replace(" (", "\n("): found for name, found in own.items()}
        bars(axes, own, _ours(own), "{:,.0f}")
        axes.margins(x=0.35)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("jobs/s")
    # Shared axes are turned once for each.
    every[0].set_ylim(len(rates) - 0.4, -0.6)


def _finished_rows(figure: Figure, report: Report) -> None:
    left, right = figure.subplots(1, 2)
    found: Mapping[str, Mapping[str, float]] = report.details["claims"]
    names = [f"{int(count):,}" for count in found]
    left.set_title(f"A claim of {report.details['batch']}")
    for offset, column, colour, label in (
        (-0.2, "median_ms", OURS, "median"),
        (0.2, "p99_ms", OTHERS, "99th percentile"),
    ):
        places = [number + offset for number in range(len(names))]
        values = [one[column] for one in found.values()]
        drawn = left.bar(places, values, width=0.38, color=colour, label=label)
        left.bar_label(drawn, [f"{value:.3g}" for value in values], padding=2, fontsize=9)
    left.set_ylabel("milliseconds")
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, fontsize=9)
    right.set_title("Pages that it looks at")
    drawn = right.bar(
        range(len(names)), [one["buffers"] for one in found.values()], width=0.6, color=OURS
    )
    right.bar_label(drawn, fmt="%.0f", padding=2, fontsize=9)
    right.set_ylabel("buffers")
    for axes, column in ((left, "median_ms"), (right, "buffers")):
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("finished rows")
        axes.grid(visible=True, axis="y")
        axes.margins(y=0.15)
        _limit(axes, _FLAT * next(iter(found.values()))[column])


def _held_snapshot(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    details = report.details
    axes.set_title(f"Claim and complete at {details['depth']:,} waiting jobs")
    axes.plot(
        [moment for moment, _ in details["by_second"]],
        [found for _, found in details["by_second"]],
        color=OURS,
        linewidth=1.5,
    )
    axes.axvspan(
        details["taken_at"], details["by_second"][-1][0], color=OTHERS, alpha=0.25, linewidth=0,
        label="a snapshot is held",
    )  # fmt: skip
    axes.axvspan(
        details["last_from"], details["by_second"][-1][0], color=OTHERS, alpha=0.35, linewidth=0,
        label="what counts",
    )  # fmt: skip
    axes.axhline(
        _HELD * details["before"], color=LIMIT, linewidth=1.2, label="half of the rate before it"
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("jobs/s")
    axes.grid(visible=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=9)


def _counts(figure: Figure, report: Report) -> None:
    axes = figure.add_subplot()
    axes.set_title(f"What there is, of {report.details['rows']:,} jobs")
    found: Mapping[str, float] = report.details["milliseconds"]
    colours = [OURS if name.startswith("overview") else OTHERS for name in found]
    axes.set_xscale("log")
    bars(axes, found, colours, "{:,.2f}")
    plain(axes.xaxis, (1.0,))
    axes.margins(x=0.2)
    axes.axvline(_OVERVIEW_MS, color=LIMIT, linewidth=1.2, zorder=0.5)
    for label in axes.texts:
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
    axes.set_xlabel("milliseconds, log scale; red: what is promised")


def _growth(figure: Figure, report: Report) -> None:
    left, right = figure.subplots(1, 2)
    found: Mapping[str, Mapping[str, float]] = report.details["runs"]
    counts = [int(count) for count in found]
    left.set_title("Claim and complete")
    left.plot(counts, [one["jobs_per_second"] for one in found.values()], marker="o", color=OURS)
    left.set_ylim(bottom=0)
    left.set_ylabel("jobs/s")
    right.set_title(f"A claim of {report.details['batch']}")
    for column, colour, label in (
        ("claim_p99_ms", OTHERS, "99th percentile"),
        ("claim_median_ms", OURS, "median"),
    ):
        values = [one[column] for one in found.values()]
        right.plot(counts, values, marker="o", color=colour, label=label)
    right.set_yscale("log")
    plain(right.yaxis)
    right.set_ylabel("milliseconds, log scale")
    right.legend(loc="upper left", fontsize=9)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("runs, log scale")
        axes.grid(visible=True)
        axes.title.set_color(INK)


def _limit(axes: Axes, value: float) -> None:
    axes.axhline(value, color=LIMIT, linewidth=1.2)


PICTURES: Final[dict[str, Callable[[Figure, Report], None]]] = {
    "submit": _submit,
    "claim-complete": _claim_complete,
    "finished-rows": _finished_rows,
    "held-snapshot": _held_snapshot,
    "counts": _counts,
    "growth": _growth,
}
