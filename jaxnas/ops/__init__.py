"""Layers and primitives as pure (init, apply) pairs; arrays are NHWC, parameters float32."""
