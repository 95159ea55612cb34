"""The laboratory: where the time goes, against the machine's own limit, the alternatives and the published code.

It runs in a clone, `python -m benchmarks speed|claims|sweeps|gpu`; what a user asks of a machine, `tokendream bench`
answers. `measure` times any piece of work and knows nothing of the method, `counting` what it does in operations and
bytes; `workload` makes the pieces of work from a config; `machine` finds the limits. `command` is what the four
commands share; their pages are made of their figures alone (`page`, `speed_page`, `claims_page`, `sweeps_page`).
"""
