"""Measurements on a device, and the statistics and the report made of them; numpy alone."""
