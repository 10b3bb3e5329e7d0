"""Draw what bench/clone.py measured: PNG and SVG.

Usage: python -m bench.plot FIGURES.json [--out DIRECTORY]

`setup` is how long a test waits for its VM, booted, cloned and from the pool; `memory` what clones cost that are alive
at once. Needs matplotlib: pip install 'pytest-embedvm[bench]'.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.rcParams["svg.hashsalt"] = "embedvm"  # the same figures make the same file

FORMATS = ("png", "svg")
#: What a bar is called, and whose figures it has.
BARS = {"cold boot": "booted: setup", "clone": "unpooled: setup", "clone from the pool": "pooled: setup"}
COLOURS = ("#9e9e9e", "#4c78a8", "#f58518")
GOAL_MB = 35


def setup(axes: Axes, figures: dict[str, Any]) -> None:
    """Multiples of S until a test's first command has returned; each test is a dot, the bar is the median."""
    series = [(label, figures["series"][name]) for label, name in BARS.items() if name in figures["series"]]
    for place, ((_, values), colour) in enumerate(zip(series, COLOURS, strict=False)):
        median = statistics.median(values)
        axes.bar(place, median, width=0.6, color=colour)
        axes.scatter([place] * len(values), values, s=14, color="black", alpha=0.4, linewidths=0, zorder=3)
        axes.annotate(f"{median:.3g} S", (place + 0.32, median), fontsize=11, va="center")
    axes.set_xticks(range(len(series)), [label for label, _ in series])
    axes.set_xlim(-0.5, len(series) - 0.2)
    axes.set_yscale("log")
    axes.set_ylabel("S: starts of a bare QEMU (log)")
    axes.set_title("Until a test's first vm.run has returned")


def memory(axes: Axes, figures: dict[str, Any]) -> None:
    """MB of all clones together, by how many are alive."""
    steps = figures["memory"]
    clones = [step["clones"] for step in steps]
    axes.plot(clones, [step["pss_mb"] for step in steps], "o-", color=COLOURS[1], label="PSS of the QEMUs")
    axes.plot(clones, [step["available_mb"] for step in steps], "s--", color=COLOURS[2], label="less MemAvailable")
    axes.plot([0, clones[-1]], [0, GOAL_MB * clones[-1]], ":", color="black", label=f"{GOAL_MB} MB each")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clones alive")
    axes.set_ylabel("MB")
    axes.set_title("Memory of clones of one template")
    axes.legend(frameon=False)


def draw(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Both pictures in both formats, of what FIGURES has."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture, there in (("setup", setup, figures["series"]), ("memory", memory, figures["memory"])):
        if not there:
            continue
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        picture(axes, figures)
        for suffix in FORMATS:
            drawn.append(folder / f"{name}.{suffix}")
            figure.savefig(drawn[-1], dpi=120, metadata={"Date": None} if suffix == "svg" else None)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="what bench/clone.py --json wrote")
    parser.add_argument("--out", type=Path, default=Path(), help="where the pictures go (default: here)")
    arguments = parser.parse_args()
    for path in draw(json.loads(arguments.figures.read_text()), arguments.out):
        print(path)


if __name__ == "__main__":
    main()
