"""Searches: grids for activations and weights, chosen by an error or a criterion."""
