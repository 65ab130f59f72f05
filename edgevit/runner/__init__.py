"""Opens a bundle on the device and runs it: numpy and the engine, no torch."""
