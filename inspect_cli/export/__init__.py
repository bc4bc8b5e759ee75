"""What other tools take: patches with an index, networks as ONNX and OpenVINO files."""
