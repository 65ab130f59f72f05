"""Our own source uses only what TensorRT 10.3 and 11.4 both have, or asks before.

The names are those that differ between the bindings of 10.13 and 11.4.
"""

import ast
from pathlib import Path

import pytest

import edgevit

REMOVED_MEMBERS = {
    "BuilderFlag": {"FP16", "BF16", "INT8", "FP8", "INT4", "FP4"}
    | {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
    | {"REJECT_EMPTY_ALGORITHMS", "WEIGHTLESS"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH"},
    "TacticSource": {"CUBLAS", "CUBLAS_LT", "CUDNN"},
    "PreviewFeature": {"PROFILE_SHARING_0806"},
}
REMOVED_NAMES = {
    "QuantizationFlag",
    "CalibrationAlgoType",
    "IStreamReader",
    "IAlgorithmSelector",
    "IInt8Calibrator",
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator",
}
REMOVED_CALLS = {"execute_async_v2", "build_engine", "build_cuda_engine", "num_bindings"} | {
    "get_binding_index",
    "get_binding_shape",
    "set_binding_shape",
    "max_batch_size",
    "int8_calibrator",
    "platform_has_fast_fp16",
    "platform_has_fast_int8",
    "set_dynamic_range",
    "create_execution_context_without_device_memory",
    "parse_with_weight_descriptors",
}
FLAG_CALLS = {"create_network", "set_flag", "clear_flag"}


def problems(source):
    """Return (line, what) for uses of TensorRT that break on one of the releases."""
    tree = ast.parse(source)
    guarded = set()
    for node in ast.walk(tree):
        asks = isinstance(node, (ast.If, ast.IfExp)) and any(
            isinstance(part, ast.Name) and part.id in {"hasattr", "getattr"}
            for part in ast.walk(node.test)
        )
        if asks or isinstance(node, ast.Try):
            guarded.update(id(part) for part in ast.walk(node))
    return sorted(
        found
        for node in ast.walk(tree)
        if id(node) not in guarded
        for found in [*_removed(node), *_literal_flags(node)]
    )


def _removed(node):
    if not isinstance(node, ast.Attribute):
        return
    owner = node.value.attr if isinstance(node.value, ast.Attribute) else None
    owner = node.value.id if isinstance(node.value, ast.Name) else owner
    if node.attr in REMOVED_MEMBERS.get(owner, ()):
        yield node.lineno, f"{owner}.{node.attr} is gone in TensorRT 11"
    if node.attr in REMOVED_CALLS | REMOVED_NAMES:
        yield node.lineno, f"{node.attr} is gone in TensorRT 10 or 11"


def _literal_flags(node):
    """Numbers of flags moved between releases: only names will do."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        names = [part for value in node.args for part in ast.walk(value)]
        written = any(isinstance(part, ast.Constant) and part.value for part in names)
        named = any(isinstance(part, (ast.Name, ast.Attribute)) for part in names)
        if node.func.attr in FLAG_CALLS and written and not named:
            yield node.lineno, f"{node.func.attr} with a number"


@pytest.mark.parametrize(
    "source",
    [
        "config.set_flag(trt.BuilderFlag.INT8)",
        "builder.create_network(1)",
        "builder.create_network(1 << 1)",
        "context.execute_async_v2(bindings, stream)",
        "n = engine.num_bindings",
        "class C(trt.IInt8EntropyCalibrator2):\n    pass",
        "flag = tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "engine = builder.build_engine(network, config)",
    ],
)
def test_scan_finds(source):
    assert len(problems(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "if hasattr(trt.BuilderFlag, 'INT8'):\n    config.set_flag(trt.BuilderFlag.INT8)",
        "builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))",
        "builder.create_network(0)",
        "context.execute_async_v3(stream)",
        "config.clear_flag(trt.BuilderFlag.TF32)",
    ],
)
def test_scan_lets_pass(source):
    assert problems(source) == []


def test_our_own_source():
    folder = Path(edgevit.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 100
    found = {str(f.relative_to(folder)): problems(f.read_text(encoding="utf-8")) for f in files}
    assert {name: lines for name, lines in found.items() if lines} == {}
