"""A picture of each report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawing import LIMIT, OTHERS, OURS, STYLE, bars
from benchmarks.report import Report

#: What is promised, as a share of what it is compared with.
_PROMISED: Final = 0.5


def draw(name: str, report: Report, machine: Mapping[str, Any], folder: Path) -> Path:
    """Draw a report; returns where the picture lies."""
    path = folder / f"api-{name}.png"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3))
        PICTURES[name](figure.add_subplot(), report)
        figure.text(
            0.995,
            0.005,
            f"{machine['size']} size, {machine['cores']} cores",
            ha="right",
            va="bottom",
            fontsize=7.5,
        )
        figure.set_layout_engine("constrained", rect=(0, 0.03, 1, 0.97))
        figure.savefig(path)
    return path


def _status_reads(axes: Axes, report: Report) -> None:
    details = report.details
    rates: Mapping[str, float] = details["requests_per_second"]
    axes.set_title(f"Requests beside {details['listeners']} listeners")
    _compare(axes, rates, "a route that does nothing", "requests/s")


def _bulk(axes: Axes, report: Report) -> None:
    axes.set_title(f"Bulk submit of {report.details['jobs']:,} jobs")
    _compare(axes, report.details["jobs_per_second"], "Producer.submit_many", "jobs/s")


def _compare(axes: Axes, rates: Mapping[str, float], against: str, unit: str) -> None:
    first = next(iter(rates))
    bars(axes, rates, [OURS if name == first else OTHERS for name in rates], "{:,.0f}")
    axes.plot([_PROMISED * rates[against]] * 2, [-0.42, 0.42], color=LIMIT, linewidth=1.6)
    axes.set_xlabel(f"{unit}; red: what is promised")


PICTURES: Final[dict[str, Callable[[Axes, Report], None]]] = {
    "status-reads": _status_reads,
    "bulk": _bulk,
}
