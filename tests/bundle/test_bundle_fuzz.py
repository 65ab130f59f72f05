"""Random damage: a bundle opens with the original content or is refused, in bounded memory."""

import copy
import hashlib
import json
import shutil
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevit.bundle import open_bundle
from edgevit.errors import DeviceError, EdgeViTError
from edgevit.runner.engines.onnxruntime.session import EngineSession

FILES = [
    "manifest.json",
    "graph.onnx",
    "weights.bin",
    "golden.npz",
    "recipe.toml",
    "reference.onnx",
    "reference.bin",
]
MEMORY_BYTES = 64 << 20
fuzz = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def pristine(make_parts, tmp_path_factory):
    path = make_parts().write(tmp_path_factory.mktemp("fuzz") / "pristine")
    return path, content(path)


@pytest.fixture
def damaged(pristine, tmp_path):
    """Return a maker of fresh copies of the pristine bundle."""

    def fresh():
        target = tmp_path / "damaged"
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(pristine[0], target)

    return fresh


def content(path):
    bundle = open_bundle(path)
    golden = {name: array.tobytes() for name, array in bundle.golden().items()}
    return (
        bundle.manifest,
        bundle.engine_onnx(),
        bundle.reference_onnx(),
        golden,
        bundle.recipe_toml(),
    )


@contextmanager
def bounded_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def same_or_refused(path, expected):
    with bounded_memory(), suppress(EdgeViTError):
        assert content(path) == expected


@fuzz
@given(data=st.data())
def test_flipped_bytes(data, damaged, pristine):
    path = damaged() / data.draw(st.sampled_from(FILES))
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    same_or_refused(path.parent, pristine[1])


@fuzz
@given(data=st.data())
def test_truncated_extended_and_deleted_files(data, damaged, pristine):
    path = damaged() / data.draw(st.sampled_from(FILES))
    original = path.read_bytes()
    action = data.draw(st.sampled_from(["cut", "extend", "delete", "empty"]))
    if action == "cut":
        path.write_bytes(original[: data.draw(st.integers(0, len(original) - 1))])
    elif action == "extend":
        path.write_bytes(original + data.draw(st.binary(min_size=1, max_size=20)))
    elif action == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    same_or_refused(path.parent, pristine[1])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-1, 0, 2**31 - 1, 2**31, 2**63, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["..", "/etc/passwd", "a/b", "\0", "raw", "zlib", "packed", "float32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def places(value, prefix=()):
    """Return the paths of all values in a JSON document."""
    found = [prefix] if prefix else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        found += places(child, (*prefix, key)) if isinstance(child, (dict, list)) else []
        found += [] if isinstance(child, (dict, list)) else [(*prefix, key)]
    return found


def mutated(data, manifest):
    manifest = copy.deepcopy(manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(manifest)))
        parent = manifest
        for key in way:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "delete", "number"]))
        if action == "delete":
            del parent[last]
        elif action == "number" and type(parent[last]) is int:
            parent[last] += data.draw(st.integers(-3, 3))
        else:
            parent[last] = data.draw(json_values)
    return manifest


def write_sealed(path, manifest):
    manifest.pop("manifest_sha256", None)
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["manifest_sha256"] = hashlib.sha256(canonical).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


@fuzz
@given(data=st.data(), sealed=st.booleans())
def test_mutated_manifests(data, sealed, damaged, pristine):
    path = damaged()
    manifest = mutated(data, json.loads((path / "manifest.json").read_text()))
    if sealed:
        write_sealed(path, manifest)
        with bounded_memory(), suppress(EdgeViTError):
            content(path)
    else:
        (path / "manifest.json").write_text(json.dumps(manifest))
        same_or_refused(path, pristine[1])


@fuzz
@given(text=st.sampled_from(["NaN", "-Infinity", "1e999", "[" * 9000, '{"a":' * 9000, "9" * 9000]))
def test_numbers_and_nestings_that_json_parsers_stumble_over(text, damaged, pristine):
    path = damaged() / "manifest.json"
    path.write_text(path.read_text().replace('"tiny"', text, 1))
    same_or_refused(path.parent, pristine[1])


@fuzz
@given(data=st.data())
def test_duplicate_keys(data, damaged, pristine):
    path = damaged() / "manifest.json"
    manifest = json.loads(path.read_text())
    key = data.draw(st.sampled_from(sorted(manifest)))
    again = json.dumps({key: data.draw(json_values)})[1:-1]
    path.write_text("{" + again + "," + path.read_text()[1:])
    with pytest.raises(EdgeViTError):
        open_bundle(path.parent)


@fuzz
@given(data=st.data())
def test_damage_with_hashes_that_fit(data, damaged):
    """An attacker can make every hash fit; what is left are the parsers' own checks."""
    path = damaged()
    name = data.draw(st.sampled_from(["graph.onnx", "weights.bin", "golden.npz"]))
    changed = bytearray((path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    (path / name).write_bytes(changed)
    manifest = json.loads((path / "manifest.json").read_text())
    digest = hashlib.sha256(changed).hexdigest()
    manifest["files"][name] = {"sha256": digest, "size_bytes": len(changed)}
    write_sealed(path, manifest)
    with bounded_memory(), suppress(EdgeViTError):
        content(path)


@settings(parent=fuzz, max_examples=20)
@given(data=st.data())
def test_an_engine_built_from_mutated_tensor_tables_runs_or_is_refused(data, damaged):
    path = damaged()
    manifest = json.loads((path / "manifest.json").read_text())
    entry = data.draw(st.sampled_from(manifest["tensors"]))
    entry["name"] = data.draw(st.sampled_from(["codes", "scale", "bias", "other"]))
    entry["shape"] = data.draw(st.permutations(entry["shape"]))
    write_sealed(path, manifest)
    images = np.zeros((1, 3, 8, 8), np.float32)
    with suppress(EdgeViTError, DeviceError):
        assert EngineSession(open_bundle(path).engine_onnx()).run(images).shape[0] == 1
