"""Where the time goes: every phase of training at a preset's real sizes, against the machine's own limit.

`measure` times any piece of work and knows nothing of the method; `workload` makes the pieces of work from a config;
`machine` finds the limit; `report` and `profiling` show what came out; `run` is the command. A sweep over sizes is
another loop over configs around `Workload` and `measure`.
"""

from tokendream.bench.run import main

__all__ = ["main"]
