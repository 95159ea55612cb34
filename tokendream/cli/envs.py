"""`tokendream envs`: its flags, and the list of what can be played."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Envs:
    """List the families of environments and what is installed; with the name of a family, its environments."""

    family: tyro.conf.Positional[str] = ""
    """A family, to list its environments."""


def run(options: Envs) -> int:
    from tokendream.envs.families.common import install_command, installed
    from tokendream.envs.registry import FAMILIES
    from tokendream.errors import TokendreamError, nearest

    if options.family:
        prefix = options.family.rstrip(":")
        if prefix not in FAMILIES:
            raise TokendreamError(f"unknown family {options.family!r}; nearest: {nearest(prefix, FAMILIES)}")
        print("\n".join(f"{prefix}:{name}" for name in FAMILIES[prefix].names()))
        return 0
    print(f"{'family':10}{'an example':38}")
    for name, family in FAMILIES.items():
        there = not family.package or installed(family.package)
        print(f"{name:10}{family.example:38}{'installed' if there else install_command(name)}")
    print("\nAny environment of Gymnasium is played by its id, your own as my_package:MyGame-v0.")
    return 0
