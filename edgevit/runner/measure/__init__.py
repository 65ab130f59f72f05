"""What is measured on a device, and the statistics and the report made of it; numpy alone."""
