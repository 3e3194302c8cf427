"""``python -m lrh_dask`` is ``lrh``."""

from lrh_dask.cli.app import main

main()
