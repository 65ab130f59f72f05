"""Rewrites: weights and graphs changed so that they lose less when they are rounded."""
