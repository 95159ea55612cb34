"""`tokendream play`: a run's agent, tokens and dreams on a page, and its world model to play in.

`session` is the game without a network, `server` the network without a game; `runner` runs the one for the other.
"""
