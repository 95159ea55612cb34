"""Families of environments that `envs.gym.GymEnvs` plays: `make(name, config)` and `names()` in a module each."""
