"""What was found, in files that other programs read: StableHLO, ONNX, and safetensors with a JSON of the architecture.

`export_run` writes the network of a run. `to_stablehlo`, and `to_onnx` of `jaxnas.export.onnx_model`, write any
function of a batch. They need `pip install 'jaxnas[export]'`. docs/export.md tells how each file is read.
"""

from jaxnas.export.int8 import Int8, dequantize, quantize
from jaxnas.export.of_run import FORMATS, Written, check_formats, export_run
from jaxnas.export.stablehlo import PLATFORMS, read_stablehlo, to_stablehlo
from jaxnas.export.weights import load_weights

__all__ = [
    "FORMATS",
    "PLATFORMS",
    "Int8",
    "Written",
    "check_formats",
    "dequantize",
    "export_run",
    "load_weights",
    "quantize",
    "read_stablehlo",
    "to_stablehlo",
]
