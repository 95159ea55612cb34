"""What lies in a run's folder: config, lock, checkpoints, metrics, and how they survive."""
