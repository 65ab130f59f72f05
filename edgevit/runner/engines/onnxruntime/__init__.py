"""ONNX Runtime: sessions on the device asked for, and the probe of its integer sums."""
