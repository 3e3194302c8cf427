"""Where a run is carried out, and whether that place is fit for it."""
