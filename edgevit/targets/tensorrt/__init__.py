"""TensorRT devices: graphs with explicit Q/DQ around every quantized product, body in float16."""
