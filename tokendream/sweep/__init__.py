"""Many runs by one command: `plan` (which), `engine` (submitit, here or on SLURM), `progress` (how far), `run`."""
