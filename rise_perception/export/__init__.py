"""Takes a network out of torch: one ONNX file with static shapes, checked before it is written."""
