"""Settings of a run, of a night and of a cluster, read from a file and checked."""
