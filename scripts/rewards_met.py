"""Which rewards a run met, and when: a policy that has settled on one of them meets no other.

    python scripts/rewards_met.py runs/kung-fu 5000

The steps of a run's last checkpoint, so many at a time. One JSON line of each: how often every reward came, and how
many games ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from world_model import collected

from tokendream.runfolder.load import read_config


def main(run: str, steps: str) -> None:
    """Count them."""
    replay = collected(Path(run), read_config(Path(run)))
    for first in range(replay.oldest, replay.total, int(steps)):
        rows = replay.rows(np.arange(first, min(first + int(steps), replay.total)))
        values, counts = np.unique(rows["reward"][rows["reward"] != 0], return_counts=True)
        met = {f"{value:g}": n for value, n in zip(values.tolist(), counts.tolist(), strict=True)}
        print(json.dumps({"run": Path(run).name, "from": first, "met": met, "games": int(rows["last"].sum())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
