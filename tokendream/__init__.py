"""REM: an agent that turns frames into tokens, dreams in them a whole frame at a time, and learns in its dreams."""

__version__ = "0.1.0"
