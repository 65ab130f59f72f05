"""Canonical graph to ONNX, shared by all targets whose engines read it."""
