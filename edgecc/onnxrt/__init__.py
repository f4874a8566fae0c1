"""The ONNX artifact for ONNX Runtime, and the check that the runtime computes it in integers."""
