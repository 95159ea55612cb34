"""Hyper-parameters as frozen dataclasses, named sets of them, and plain JSON into both."""
