"""The command line: `commands` (what there is), `flags` (how words become options), `main` (running one)."""
