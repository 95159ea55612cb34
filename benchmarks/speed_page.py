"""The phases' sections of docs/speed.md, made of the JSON of `python -m benchmarks speed` and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.page import head, header, line, short
from benchmarks.reference import H100_BANDWIDTH, H100_FLOPS, PUBLISHED, PUBLISHED_MACHINE, PUBLISHED_THREADS
from tokendream.config.config import Config
from tokendream.config.schedule import PARTS

Data = Mapping[str, Any]


def titled(data: Data) -> Iterator[str]:
    """The section of docs/speed.md that is about one kind of processor."""
    yield from (f"## Every phase: {data['environment']['kind']}", "", *markdown(data))


def markdown(data: Data, command: str = "speed") -> Iterator[str]:
    """Everything that was found by this command, as lines of Markdown."""
    facts = data["environment"]
    yield header(
        command, data["preset"], facts, quick=data["quick"], profile=bool(data["profiles"]), only=data.get("only", ""),
        clock=data["clock"], how="variants in turn in one process",
    )  # fmt: skip
    yield ""
    if facts.get("load", 0.0) > 0.5:
        yield "**The machine was shared at the time**: rates can only be lower for it, ratios are affected less."
        yield ""
    peaks = ", ".join(f"{peak:.3g} TFLOP/s in {name}" for name, peak in data["peak_tflops"].items())
    yield (
        f"In the same process, large matrix products reach {peaks}, and copying half a gigabyte "
        f"{data['copy_gb_per_s']:.3g} GB/s, read and written."
    )
    yield ""
    yield from _published(data)
    yield from _rows(data)
    yield from _floors(data)
    yield from _variants(data)
    yield from _epoch(data)
    yield from _profiles(data)
    if data["skipped"]:
        yield from ("**Left out for lack of time**: " + "; ".join(data["skipped"]) + ".", "")


def _published(data: Data) -> Iterator[str]:
    """Ours, the published code's, and what is to be reached, for every work of which the latter is known."""
    order = list(PUBLISHED)
    rows = [row for row in data["rows"] if "published" in row]
    rows.sort(key=lambda row: (order.index((row["name"], row["batch"])), row["precision"]))
    if not rows:
        return
    threads = data["environment"]["threads"]
    yield from ("### Against the published code", "")
    yield from head("work", "batch", "unit", "ours", "published", "ratio", "to reach", "reached")
    for row in rows:
        published, target = row["published"]["rate"], row["published"]["target"]
        ours = row.get("imagined_steps_per_s") or row["frames_per_s"]
        counts = target is not None and row["precision"] == "bf16"
        yield line(
            f"{row['name']}, {row['precision']}", row["batch"],
            "imagined steps/s" if "imagined_steps_per_s" in row else "frames/s",
            short(ours), short(published), f"{ours / published:.1f}x", short(target) if counts else "",
            ("yes" if ours >= target else "no") if counts else "",
        )  # fmt: skip
    yield ""
    yield (
        f"Published: REM's code on {PUBLISHED_MACHINE}; timed once, not in this run. Our updates find their "
        "frames encoded. A work that was measured twice, against plain operators and against float32, has two rows."
    )
    if threads != PUBLISHED_THREADS:
        yield (
            f"**Ours ran with {threads} thread{'s' * (threads != 1)} here, the published code with "
            f"{PUBLISHED_THREADS}**: the ratios compare unlike runs."
        )
    yield ""


def _rows(data: Data) -> Iterator[str]:
    if not data["rows"]:
        return
    yield from ("### Every phase", "")
    yield from head(
        "work", "batch", "ms an update", "frames/s", "imagined/s", "tokens/s", "TFLOP/s", "% of peak", "GiB"
    )
    for row in data["rows"]:
        s = row["seconds"]
        yield line(
            f"{row['name']}, {row['precision']}", _batch(row),
            f"{short(1e3 * s['median'])} ({short(1e3 * s['min'])}–{short(1e3 * s['max'])})",
            *(short(row[f"{n}_per_s"]) if f"{n}_per_s" in row else "" for n in ("frames", "imagined_steps", "tokens")),
            short(row["tflops"]), short(100 * row["share_of_peak"]), short(row["peak_memory_bytes"] / 2**30),
        )  # fmt: skip
    yield ""
    yield (
        "GiB: the process's resident memory, or the GPU's allocated, at its highest. World model and actor-critic find "
        "their frames encoded, as they do for most of an epoch; encode times that. Dream by tokens: the same network "
        "with `world_model.decoding` = `token`."
    )
    yield ""


def _floors(data: Data) -> Iterator[str]:
    """What each phase must compute and what its operators move, against what this machine and an H100 could do."""
    rows = [row for name in (*PARTS, "dream", "encode") if (row := _first(data, name))]
    if not rows:
        return
    yield from ("### The floor", "")
    yield from head("work", "batch", "GFLOP", "at peak, ms", "GB moved", "at copy speed, ms", "measured, ms",
                    "times the floor", "H100, computed: products, ms", "moved, ms")  # fmt: skip
    for row in rows:
        flop, moved, measured = row["flop"], row["traffic_bytes"], row["seconds"]["median"]
        floor = flop / (1e12 * data["peak_tflops"][row["precision"]])
        yield line(
            row["name"], _batch(row), short(flop / 1e9), short(1e3 * floor), short(moved / 1e9),
            short(1e3 * moved / (1e9 * data["copy_gb_per_s"])), short(1e3 * measured), f"{measured / floor:.1f}",
            short(1e3 * flop / H100_FLOPS), short(1e3 * moved / H100_BANDWIDTH),
        )  # fmt: skip
    yield ""
    yield (
        "An update each. GFLOP: matrix products and convolutions, counted as they ran. GB moved: what the operators "
        "read and wrote, counted as if nothing stayed in a cache; a fused program moves less. "
        f"**The H100's columns were not measured**: they divide the counts by {H100_FLOPS / 1e12:.0f} TFLOP/s of dense "
        f"bf16 products and {H100_BANDWIDTH / 1e12:.2f} TB/s, the data sheet's."
    )
    yield ""
    yield from (f"- {sentence}" for sentence in _derivations(data))
    yield ""


def _derivations(data: Data) -> Iterator[str]:
    """The counts of the three parts, derived from the config's sizes."""
    config = Config.from_json(json.dumps(data["config"]))
    M, K1 = config.world_model, config.tokens_per_frame + 1
    weights = M.layers * (5 + 2 * M.ffn_factor) * M.width**2
    layers = f"{weights / 1e6:.2f} M weights, {M.layers} layers of {5 + 2 * M.ffn_factor} D² with D = {M.width}"
    if row := _first(data, "world_model"):
        P = M.segment_length - M.context
        tokens = row["batch"] * (M.segment_length + P) * K1
        yield (
            f"World model: {row['batch']} segments x ({M.segment_length} blocks of {K1} tokens + {P} predictions as "
            f"long) = {tokens:,} tokens; x {layers}; x 2 FLOP; x 3, as a gradient is twice its forward pass: "
            f"{6 * tokens * weights / 1e9:,.0f} GFLOP, of {row['flop'] / 1e9:,.0f} counted."
        )
    if row := _first(data, "dream"):
        horizon = config.dream.horizon
        tokens = row["batch"] * horizon * 2 * K1
        yield (
            f"Dream: {row['batch']} dreams x {horizon} steps x (a block of {K1} tokens + a prediction as long) = "
            f"{tokens:,} tokens; x the same weights; x 2 FLOP: {2 * tokens * weights / 1e9:,.0f} GFLOP, of "
            f"{row['flop'] / 1e9:,.0f} counted. Beside the layers there are retention itself, the heads and, in a "
            "dream, actor and critic; the last layer is left out where its real tokens are not read."
        )
    whole, bare = _first(data, "tokenizer"), _first(data, "tokenizer without LPIPS")
    if whole and bare:
        each, own = (row["flop"] / row["batch"] / 1e9 for row in (whole, bare))
        yield (
            f"Tokenizer: {own:.2f} GFLOP a frame for encoder, codebook and decoder, forwards and backwards, and "
            f"{each - own:.2f} for LPIPS, which takes the real frame forwards and the decoded one both ways."
        )


def _variants(data: Data) -> Iterator[str]:
    if data["comparisons"]:
        yield from ("### Variants", "")
        yield from head("work", "", "times as fast (least to most)")
        for c in data["comparisons"]:
            ratio = c["ratio"]
            spread = f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
            yield line(c["title"], f"{c['fast']} against {c['slow']}", spread)
        yield ""


def _epoch(data: Data) -> Iterator[str]:
    if data["epoch_seconds"]:
        parts = ", ".join(f"{name} {short(seconds)}" for name, seconds in data["epoch_seconds"].items())
        yield f"**Seconds of an epoch** with all phases due and a full replay, computed from these rows: {parts}."
        yield ""


def _profiles(data: Data) -> Iterator[str]:
    if data["profiles"]:
        yield from ("### Operators by their own time", "")
        yield from head("work", "share of an update")
        for name, operators in data["profiles"].items():
            yield line(name, ", ".join(f"{o['name']} {100 * o['share']:.0f}%" for o in operators[:6]))
        yield ""


def _first(data: Data, name: str) -> Data | None:
    """The first row of that name, which is the one in the config's own precision and batch."""
    return next((row for row in data["rows"] if row["name"] == name), None)


def _batch(row: Data) -> str:
    return row["sizes"] + (f" (not {row['full_batch']})" if row["batch"] != row["full_batch"] else "")
