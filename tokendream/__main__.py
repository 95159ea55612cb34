"""`python -m tokendream` is `tokendream`."""

from tokendream.cli.main import entry

entry()
