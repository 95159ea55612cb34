"""The 26 games of Atari 100K and their published scores, as REM's table of results has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Reference(NamedTuple):
    """A game's published scores: a random player, a human, and REM's mean over 5 seeds."""

    random: float
    human: float
    rem: float


ATARI_100K: Mapping[str, Reference] = {
    "Alien": Reference(227.8, 7127.7, 607.2),
    "Amidar": Reference(5.8, 1719.5, 95.3),
    "Assault": Reference(222.4, 742.0, 1764.2),
    "Asterix": Reference(210.0, 8503.3, 1637.5),
    "BankHeist": Reference(14.2, 753.1, 19.2),
    "BattleZone": Reference(2360.0, 37187.5, 11826.0),
    "Boxing": Reference(0.1, 12.1, 87.5),
    "Breakout": Reference(1.7, 30.5, 90.7),
    "ChopperCommand": Reference(811.0, 7387.8, 2561.2),
    "CrazyClimber": Reference(10780.5, 35829.4, 76547.6),
    "DemonAttack": Reference(152.1, 1971.0, 5738.6),
    "Freeway": Reference(0.0, 29.6, 32.3),
    "Frostbite": Reference(65.2, 4334.7, 240.5),
    "Gopher": Reference(257.6, 2412.5, 5452.4),
    "Hero": Reference(1027.0, 30826.4, 6484.8),
    "Jamesbond": Reference(29.0, 302.8, 391.2),
    "Kangaroo": Reference(52.0, 3035.0, 467.6),
    "Krull": Reference(1598.0, 2665.5, 4017.7),
    "KungFuMaster": Reference(258.5, 22736.3, 25172.2),
    "MsPacman": Reference(307.3, 6951.6, 962.5),
    "Pong": Reference(-20.7, 14.6, 18.0),
    "PrivateEye": Reference(24.9, 69571.3, 99.6),
    "Qbert": Reference(163.9, 13455.0, 743.0),
    "RoadRunner": Reference(11.5, 7845.0, 14060.2),
    "Seaquest": Reference(68.4, 42054.7, 1036.7),
    "UpNDown": Reference(533.4, 11693.2, 3757.6),
}
"""The 26 games by their names in the benchmark."""


def benchmark_name(game: str | None) -> str | None:
    """The benchmark's name of an Atari game spelt in any way (`ms_pacman`), or None where it is not one of the 26."""
    folded = re.sub(r"[\s_-]", "", game or "").lower()
    return next((name for name in ATARI_100K if name.lower() == folded), None)
