"""`python -m tokendream` is `tokendream`."""

from tokendream.cli import entry

entry()
