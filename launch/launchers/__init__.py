"""Launchers: pure functions from a ``LaunchSpec`` and the environment to a ``Command``."""
