"""Imagination and what it teaches: the only place where tokenizer, world model and controller meet."""
