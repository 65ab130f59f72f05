"""One post-training quantization algorithm per file; named methods put them together."""
