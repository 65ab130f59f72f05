"""What each device can run exactly, the placement it allows, and the lowering to its ONNX form."""
