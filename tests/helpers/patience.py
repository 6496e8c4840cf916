"""How long tests wait for what must come: for events, never for a time. Only what hangs takes this long."""

HANGS = 1800
"""Seconds after which no machine is merely slow."""
