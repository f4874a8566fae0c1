"""The ONNX project's own node tests."""
