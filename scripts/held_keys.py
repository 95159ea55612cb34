"""What an action earns by how long it had been held: a game may pay a key that is pressed and not one that is held.

    python scripts/held_keys.py runs/kung-fu

The steps of a run's last checkpoint. One JSON line an action: of its first, second, third step in a row and of all
later ones, how many were taken and how many of them were paid for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from world_model import collected

from tokendream.data.replay import ReplayBuffer
from tokendream.envs.registry import spaces_of
from tokendream.runfolder.load import read_config

LONGEST = 4


def held(replay: ReplayBuffer) -> Int64[np.ndarray, " n"]:
    """At each row, how many steps of its episode its action has now been taken in a row, `LONGEST` at most."""
    rows = replay.rows(np.arange(replay.oldest, replay.total))
    found, n = np.ones(len(replay), np.int64), replay.envs
    for i in range(n, len(replay)):
        alike = rows["action"][i] == rows["action"][i - n] and rows["episode_start"][i] == rows["episode_start"][i - n]
        found[i] = min(found[i - n] + 1, LONGEST) if alike else 1
    return found


def main(run: str) -> None:
    """Count them."""
    config = read_config(Path(run))
    replay, names = collected(Path(run), config), spaces_of(config).action_names
    rows, length = replay.rows(np.arange(replay.oldest, replay.total)), held(replay)
    for action, name in enumerate(names):
        steps = [(rows["action"] == action) & (length == k) for k in range(1, LONGEST + 1)]
        taken, paid = ([int(of.sum()) for of in each] for each in (steps, [s & (rows["reward"] != 0) for s in steps]))
        print(json.dumps({"run": Path(run).name, "action": name, "taken": taken, "paid": paid}))


if __name__ == "__main__":
    main(*sys.argv[1:])
