"""Games played in full, scores and their statistics, and the diagnosis of every part."""
