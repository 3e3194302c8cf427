"""The command `lrh`."""
