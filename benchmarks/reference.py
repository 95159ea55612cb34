"""Figures that are not ours: what the published code reaches, what is to be reached, what a GPU's maker promises."""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED: Mapping[tuple[str, int], float] = {
    ("tokenizer", 64): 17.0,
    ("tokenizer without LPIPS", 64): 49.0,
    ("world_model", 8): 30.0,
    ("actor_critic", 16): 47.0,
    ("actor_critic", 128): 41.0,
    ("dream", 16): 120.0,
    ("dream", 128): 119.0,
}
"""Frames/s, or imagined steps/s of dreams, that REM's published code reaches at the same sizes, by batch."""

PUBLISHED_MACHINE = "2 CPU cores with AMX, float32 as shipped, frames encoded within each update"
"""Where those were measured, and how."""

PUBLISHED_THREADS = 2

TARGETS: Mapping[tuple[str, int], float] = {
    ("tokenizer", 64): 100.0,
    ("tokenizer without LPIPS", 64): 300.0,
    ("world_model", 8): 240.0,
    ("actor_critic", 128): 600.0,
    ("dream", 128): 1000.0,
}
"""What this code is to reach on the same kind of machine, in the same units."""

H100_FLOPS, H100_BANDWIDTH = 989e12, 3.35e12
"""FLOP/s of dense bf16 products and bytes/s of memory that NVIDIA's data sheet gives the H100 SXM; not measured."""
