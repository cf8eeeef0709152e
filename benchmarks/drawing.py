"""How all pictures look."""

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, FAINT, OURS, OTHERS, LIMIT = "#1f2328", "#d0d5da", "#1f6f8b", "#a7b1bb", "#c0392b"
SHADES: Final = (
    "#1f6f8b", "#e0a030", "#8a6bb1", "#5b8c5a", "#a7b1bb", "#c0392b", "#7b5b3a", "#d48fb0",
)  # fmt: skip
STYLE: Final[Any] = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def bars(axes: Axes, values: Mapping[str, float], colours: list[str], form: str) -> None:
    """Lying bars with their values behind them, in order from the top."""
    bars = axes.barh(list(values), list(values.values()), height=0.62, color=colours)
    axes.bar_label(bars, [form.format(value) for value in values.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0)


def plain(axis: Axis, steps: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Label a logarithmic axis with numbers as people write them, so many in each decade."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
