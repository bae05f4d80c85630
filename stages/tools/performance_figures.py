"""The figures of reports/performance.md."""

from pathlib import Path

import numpy as np

from stages.core.report.style import look, new_figure, save
from stages.tools.performance_tables import Measured, place


def roofline(records: Measured, folder: Path) -> None:
    """Operations per second against operations per byte of the eager step, under the measured peaks."""
    runs = {name: record for name, record in records.items() if record["benchmark"] == "training"}
    figure = new_figure(8.6, 4.0)
    axes = figure.subplots()
    for position, (name, record) in enumerate(runs.items()):
        style = look(position)
        peak, copied = record["matrix_peak_flops_per_s"], record["copy_peak_bytes_per_s"]
        ridge = peak / copied
        axes.plot(
            [ridge / 100, ridge, ridge * 100],
            [peak / 100, peak, peak],
            style.linestyle,  # peaks of one machine fall together
            color=style.color,
            label=f"{place(name)}: peaks",
        )
        for way, filled in (("ours", style.color), ("textbook", "none")):
            flops = [result["flops_per_image"] for result in record["results"]]
            moved = [result["eager_bytes_per_image"] for result in record["results"]]
            rates = [result[way]["images_per_s"]["median"] for result in record["results"]]
            axes.plot(
                np.divide(flops, moved),
                np.multiply(flops, rates),
                linestyle="none",
                marker=style.marker,
                markeredgecolor=style.color,
                markerfacecolor=filled,
                label=f"{place(name)}: {way}",
            )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte of the eager step", ylabel="FLOP per second")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the panel: peaks of several machines fill it
    save(figure, folder, "roofline")


def growth(records: Measured, folder: Path) -> None:
    """Time against images on logarithmic axes, with the lines through them, and peak memory."""
    record = records.get("growth-cpu", {"images": [], "results": {}})
    figure = new_figure(8.0, 3.6)
    times, memory = figure.subplots(1, 2)
    images = np.array(record["images"])
    for position, (stage, result) in enumerate(record["results"].items()):
        style = look(position)
        marks = {"color": style.color, "marker": style.marker, "label": stage}
        times.plot(images, result["seconds"], linestyle="none", **marks)
        span = np.geomspace(images.min(), images.max())
        times.plot(
            span, result["start_s"] + result["s_per_1000_images"] * span / 1000, style.linestyle, color=style.color
        )
        memory.plot(images, result["peak_mib"], linestyle=style.linestyle, **marks)
    times.set(xscale="log", yscale="log", xlabel="images", ylabel="time (s)")
    memory.set(xscale="log", xlabel="images", ylabel="peak memory (MiB)")
    for axes in (times, memory):
        axes.set_xticks(images, [f"{count:,}" for count in images], minor=False)
        axes.minorticks_off()
    memory.set_ylim(bottom=0)
    if record["results"]:
        times.legend()
    save(figure, folder, "growth")
