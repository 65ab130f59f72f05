"""Number grids, their integer arithmetic, bit packing and Placement (imports nothing heavy)."""
