"""Environments: what every one looks like to the agent, and the families of them."""
