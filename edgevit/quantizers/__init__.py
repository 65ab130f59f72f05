"""Number grids, their exact integer arithmetic, bit packing, and Placement (imports nothing heavy)."""
