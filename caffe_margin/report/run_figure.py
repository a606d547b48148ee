"""The picture of a run of training; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from caffe_margin.report.figures import BLACK, BLUE, GREEN, VERMILION, WIDTH


def draw_run(
    iterations: Sequence[Mapping[str, Any]], verifications: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw loss, lambda and rate over iterations, and the equal error rate where there is one.

    Args:
        iterations: entries of a log, with ``iteration``, ``smoothed_loss``, ``rate``, ``lambda``.
        verifications: entries of a log, with ``iteration`` and ``verification``.
    """
    at = [entry["iteration"] for entry in iterations]
    lambdas: dict[str, list[float]] = {}
    for entry in iterations:
        for name, value in entry["lambda"].items():
            lambdas.setdefault(name, []).append(value)
    panels = ["loss", *(["lambda"] if lambdas else []), "rate"]
    panels += ["equal error rate (%)"] if verifications else []
    figure = Figure(figsize=(WIDTH, 1.7 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, title in zip(axes, panels, strict=True):
        ax.set_title(title)
        if title == "loss":
            ax.plot(at, [entry["smoothed_loss"] for entry in iterations], color=BLUE)
        elif title == "lambda":
            for values, line in zip(lambdas.values(), ("-", "--", ":", "-.") * 9, strict=False):
                ax.plot(at, values, color=VERMILION, linestyle=line)
            ax.set_yscale("log")
        elif title == "rate":
            ax.plot(at, [entry["rate"] for entry in iterations], color=BLACK)
            ax.set_yscale("log")
        else:
            rates = [100 * entry["verification"]["eer"] for entry in verifications]
            ax.plot([e["iteration"] for e in verifications], rates, color=GREEN, marker="o")
            ax.set_ylim(bottom=0)
    axes[-1].set_xlabel("iteration")
    return figure
