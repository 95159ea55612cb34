"""The report over many runs: `results` (read and checked), `summary` (its figures), `charts`, `page`, `export`."""
