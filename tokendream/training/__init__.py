"""Training: updates, an epoch's phases, and a run around them."""
