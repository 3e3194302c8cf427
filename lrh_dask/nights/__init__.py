"""Curvature every night: what is new is counted, and published as a run."""
