"""Where the time goes: every phase of training at a preset's real sizes, against the machine's own limit.

`measure` times any piece of work and knows nothing of the method, `counting` what it does in operations and bytes;
`workload` makes the pieces of work from a config; `machine` finds the limits. Three commands are made of them: `run`
(every phase), `claims` (POP and RetNet against their alternatives) and `sweeps` (cost over sizes). `command` is what
they share; each has a page, or a section of one, made of its figures alone (`page`, `speed_page`, `claims_page`,
`sweeps_page`).
"""

from tokendream.bench.run import main

__all__ = ["main"]
