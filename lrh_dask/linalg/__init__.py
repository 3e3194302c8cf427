"""The two states, and the linear algebra that adds, merges and solves them: no Dask, no Zarr."""
