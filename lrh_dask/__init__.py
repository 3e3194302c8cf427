"""Low-rank Hessians from stored gradients, on a Dask cluster."""

__version__ = "0.1.0"
