"""Pairs, results and runs as they are stored: Zarr, manifests, Icechunk, object storage."""
