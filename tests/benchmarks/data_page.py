"""The data benchmark as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from datamodules.files import replacing


def chain_table(results: dict[str, Any]) -> Table:
    """One row per chain, against the reference."""
    machine = results["machine"]
    table = Table(
        title=f"Stored bytes to augmented tensor, one core ({machine['cpu']}), load {machine['load_average']}",
        caption="ms a volume, median and fastest round; volumes a second; times the reference, by clock and processor",
        box=box.SIMPLE,
    )
    table.add_column("chain", no_wrap=True)
    for title in ("ms", "fastest", "per s", "x ref.", "x CPU"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in results["chains"].items():
        table.add_row(
            name,
            f"{row['wall_ms_median']:.1f}",
            f"{row['wall_ms_min']:.1f}",
            f"{row['volumes_per_second']:.0f}",
            f"{row['ratio_to_reference']:.1f}",
            f"{row['ratio_to_reference_processor']:.1f}",
        )
    return table


def sentences(results: dict[str, Any]) -> list[str]:
    """The other figures in words."""
    stored, bound = results["storage"], results["bound"]
    error, reading = results["error_of_default"], bound["shard_read"]
    smooth = error["smooth tissue"]
    lines = [
        f"Stored: {stored['int16_shard'] / 1e6:.2f} MB a volume as a shard, {stored['shard_share']:.2f} of the "
        f"reference's {stored['float32_npy'] / 1e6:.2f} MB.",
        f"Shards are read at {reading['mb_per_second']:.0f} MB/s; a memory copy of the same bytes runs at "
        f"{reading['copy_of_the_same_bytes_mb_per_second']:.0f} MB/s.",
        f"The default against exact, same maps, inside the volume: {smooth['mean_hu']:.2f} HU on average and "
        f"{smooth['largest_hu']:.1f} HU at most on smooth tissue. Of a noise of 20 HU the default leaves "
        f"{error['noise of 20 HU after separable, HU']:.1f}, exact {error['noise of 20 HU after exact, HU']:.1f}.",
        f"Bound: memory alone would take {bound['ms_if_only_memory_counted']:.2f} ms a volume for the least traffic "
        f"({bound['least_mb']:.1f} MB); the default takes {bound['times_the_least']:.1f} times that, and "
        f"{bound['times_the_traffic_of_its_passes']:.1f} times what its own passes move.",
    ]
    for name, rates in results["epochs_volumes_per_second"].items():
        later = sum(rates[1:]) / len(rates[1:])
        lines.append(f"Epochs, {name}: {rates[0]:.0f} volumes/s with a cold page cache, {later:.0f} later.")
    for name, rates in results["ranks_volumes_per_second"].items():
        lines.append(
            f"Ranks, {name}: " + ", ".join(f"{rate:.0f} volumes/s on {count}" for count, rate in rates.items()) + "."
        )
    for name, epochs in results["worker_memory_mb"].items():
        if epochs[0]:
            first, last = epochs[0]["own"], epochs[-1]["own"]
            lines.append(f"Memory, {name}: {first:.0f} MB after the first epoch, {last:.0f} MB after {len(epochs)}.")
    return lines


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw chains, stages and memory, and write the picture atomically as PNG."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.3, 1))
    _draw_chains(figure.add_subplot(grid[0, :]), results)
    _draw_stages(figure.add_subplot(grid[1, 0]), results["bound"])
    _draw_memory(figure.add_subplot(grid[1, 1]), results["worker_memory_mb"])
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _draw_chains(axes: Any, results: dict[str, Any]) -> None:
    chains = results["chains"]
    values = [row["wall_ms_median"] for row in chains.values()]
    least = [row["wall_ms_min"] for row in chains.values()]
    colors = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in chains]
    bars = axes.barh(list(chains), values, color=colors)
    axes.plot(least, range(len(least)), "k|", markersize=14, label="fastest round")
    axes.bar_label(bars, [f"{row['ratio_to_reference']:.1f} x" for row in chains.values()], padding=6, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(values))
    axes.set_xlabel("ms a volume: median over rounds; times the reference's speed within a round")
    axes.set_title(
        f"Stored bytes to augmented tensor, 40 x 140 x 140 to 32 x 128 x 128, one core of {results['machine']['cpu']}"
    )
    axes.legend(loc="lower right", frameon=False)


def _draw_stages(axes: Any, bound: dict[str, Any]) -> None:
    left = 0.0
    for name, stage in bound["stages"].items():
        axes.barh(["default, by stage"], [stage["ms"]], left=left, label=f"{name}: {stage['gb_per_second']:.0f} GB/s")
        left += stage["ms"]
    passes = bound["ms_all_stages"] / bound["times_the_traffic_of_its_passes"]
    axes.barh(["its passes at\ncopy bandwidth"], [passes], color="lightgray")
    axes.barh(["least traffic at\ncopy bandwidth"], [bound["ms_if_only_memory_counted"]], color="lightgray")
    axes.invert_yaxis()
    axes.set_xlabel("ms a volume")
    axes.set_title(f"What bounds it (copy: {bound['copy_gb_per_second']['256 MB']:.1f} GB/s read + written)")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_memory(axes: Any, memory: dict[str, list[dict[str, float]]]) -> None:
    for name, epochs in memory.items():
        held = [epoch["own"] for epoch in epochs if epoch]
        axes.plot(range(1, len(held) + 1), held, marker=".", label=name)
    axes.set_ylim(0, 1.4 * max(epoch["own"] for epochs in memory.values() for epoch in epochs if epoch))
    axes.set_xlabel("epoch")
    axes.set_ylabel("MB, libraries included")
    axes.set_title("Memory of a loader's worker")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
