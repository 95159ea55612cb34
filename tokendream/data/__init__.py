"""Real experience as batches, and the buffer that holds it."""
