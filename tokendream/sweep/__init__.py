"""Many runs by one command: `plan` (which), `local` and `slurm` (where), `progress` (how far), `run`."""
