"""The capabilities of each device, the placement it allows, and the lowering to its ONNX form."""
