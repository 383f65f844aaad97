"""Run folder -> bundle: ONNX graph, quantisation, engines, and the checks that each must pass."""
