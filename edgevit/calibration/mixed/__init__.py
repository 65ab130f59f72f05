"""Mixed precision: one width per layer, within a budget."""
