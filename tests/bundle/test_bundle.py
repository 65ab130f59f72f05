"""A bundle's life: written, opened, run; every tensor and logit comes back unchanged."""

import json
import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgevit.bundle import graph, open_bundle
from edgevit.bundle.protobuf import initializer_prefix, varint
from edgevit.errors import UnsupportedError, UsageError
from edgevit.runner.engines.onnxruntime.session import session_from_bundle


def initializers(model_bytes):
    model = onnx.load_from_string(model_bytes)
    onnx.checker.check_model(model, full_check=True)
    inside = {"rows", "zero"}
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name not in inside
    }


def test_every_tensor_comes_back_in_a_valid_model(parts, tmp_path):
    bundle = open_bundle(parts.write(tmp_path / "out"))
    engine = initializers(bundle.engine_onnx())
    assert engine.keys() == parts.tensors.keys()
    for name, array in parts.tensors.items():
        assert engine[name].dtype == array.dtype
        np.testing.assert_array_equal(engine[name], array)
    for name, array in initializers(bundle.reference_onnx()).items():
        np.testing.assert_array_equal(array, parts.reference[1][name])
    for name, array in bundle.golden().items():
        np.testing.assert_array_equal(array, parts.golden[name])
    assert bundle.recipe_toml() == parts.recipe_toml
    assert bundle.preprocessing == parts.manifest["preprocessing"]
    assert bundle.input_size == (3, 8, 8)
    assert bundle.session_config == {"session.x64quantprecision": "1"}


def test_the_engine_runs_from_the_bundle(parts, tmp_path, pixels_to_input):
    bundle = open_bundle(parts.write(tmp_path / "out"))
    logits = session_from_bundle(bundle, threads=1).run(pixels_to_input(parts.golden["images"]))
    np.testing.assert_allclose(logits, parts.golden["logits_simulated"], atol=1e-4)


def test_encodings_are_chosen_by_what_they_save(parts, tmp_path):
    random = np.random.default_rng(1)
    parts.tensors["zeros"] = np.zeros((40, 40), np.float32)
    parts.tensors["noise"] = random.integers(-(2**31), 2**31, (40, 40)).astype(np.int32)
    parts.tensors["eight"] = random.integers(-128, 128, 999).astype(np.int8)
    parts.tensors["scalar"] = np.float16(2.5).reshape(())
    parts.tensors["four"] = random.integers(0, 16, 33).astype(np.uint8)
    parts.packed_bits.update(four=4, eight=8)
    bundle = open_bundle(parts.write(tmp_path / "out"))
    found = {entry.name: (entry.encoding, entry.bits) for entry in bundle.tensors}
    assert found["codes"] == ("packed", 6)
    assert found["four"] == ("packed", 4)
    assert found["eight"] == ("raw", 8)
    assert found["zeros"] == ("zlib", 32)
    assert found["noise"] == ("raw", 32)
    assert {entry.encoding for entry in bundle.reference_tensors} == {"raw"}
    for name, array in initializers(bundle.engine_onnx()).items():
        np.testing.assert_array_equal(array, parts.tensors[name])


def test_codes_take_their_bits_on_disk(parts, tmp_path):
    bundle = open_bundle(parts.write(tmp_path / "out"))
    codes = next(entry for entry in bundle.tensors if entry.name == "codes")
    assert codes.size_bytes == parts.tensors["codes"].size * 6 // 8


def test_big_endian_arrays_are_stored_little_endian(parts, tmp_path):
    expected = parts.tensors["bias"]
    parts.tensors["bias"] = expected.astype(">f4")
    bundle = open_bundle(parts.write(tmp_path / "out"))
    np.testing.assert_array_equal(initializers(bundle.engine_onnx())["bias"], expected)


def test_sizes_are_those_on_disk(bundle_path):
    bundle = open_bundle(bundle_path)
    on_disk = {path.name: path.stat().st_size for path in bundle_path.iterdir()}
    assert bundle.size_bytes("total") == sum(on_disk.values())
    assert bundle.size_bytes("engine") == on_disk["graph.onnx"] + on_disk["weights.bin"]
    reference = on_disk["reference.onnx"] + on_disk["reference.bin"]
    assert bundle.size_bytes("reference") == reference
    assert bundle.size_bytes("bundle") == bundle.size_bytes("total") - reference


def test_a_bundle_without_reference(parts, tmp_path):
    bundle = open_bundle(parts.write(tmp_path / "out", reference=None))
    assert not bundle.has_reference
    assert bundle.reference_onnx() is None
    assert bundle.size_bytes("reference") == 0
    assert not (tmp_path / "out" / "reference.bin").exists()


def test_what_is_written_twice_is_the_same_bytes(parts, tmp_path):
    parts.manifest["created"] = "2026-01-01T00:00:00+00:00"
    first, second = parts.write(tmp_path / "a"), parts.write(tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_the_folder_has_the_permissions_of_any_new_folder(parts, tmp_path):
    (tmp_path / "plain").mkdir()
    made = parts.write(tmp_path / "out")
    assert made.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_parents_are_made(parts, tmp_path):
    assert open_bundle(parts.write(tmp_path / "a" / "b" / "out"))


def test_an_existing_output_is_refused_and_untouched(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    before = (path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="EV411"):
        parts.write(path)
    assert (path / "manifest.json").read_bytes() == before


def test_overwrite_replaces_a_bundle_and_leaves_nothing_beside_it(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    parts.manifest["warnings"] = ["second"]
    parts.write(path, overwrite=True, reference=None)
    assert open_bundle(path).manifest["warnings"] == ["second"]
    assert not (path / "reference.bin").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_overwrite_replaces_a_damaged_bundle_and_an_empty_folder(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    (path / "weights.bin").unlink()
    (tmp_path / "empty").mkdir()
    assert open_bundle(parts.write(path, overwrite=True))
    assert open_bundle(parts.write(tmp_path / "empty", overwrite=True))


@pytest.mark.parametrize("foreign", ["notes.txt", "weights.bin"])
def test_overwrite_never_deletes_what_is_no_bundle(parts, tmp_path, foreign):
    path = tmp_path / "out"
    path.mkdir()
    (path / foreign).write_text("mine")
    with pytest.raises(UsageError, match="EV411"):
        parts.write(path, overwrite=True)
    assert (path / foreign).read_text() == "mine"


def test_overwrite_never_deletes_a_foreign_file_in_a_bundle(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        parts.write(path, overwrite=True)
    assert open_bundle(path)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_overwrite_never_replaces_a_file_or_link(parts, tmp_path, kind):
    real = parts.write(tmp_path / "real")
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(real)
    with pytest.raises(UsageError, match="EV411"):
        parts.write(path, overwrite=True)
    assert open_bundle(real)


def test_what_can_not_be_stored_is_refused_and_leaves_nothing(parts, tmp_path):
    nowhere = tmp_path / "a" / "out"
    changes = [
        {"tensors": {**parts.tensors, "flags": np.zeros(3, bool)}},
        {"packed_bits": {"absent": 4}},
        {"packed_bits": {"bias": 4}},
        {"packed_bits": {"codes": 4}},
        {"golden": {}},
        {"golden": {**parts.golden, "extra": np.zeros(5)}},
        {"golden": {**parts.golden, "logits_simulated": np.zeros((5, 7))}},
        {"golden": {**parts.golden, "names": np.array([{}] * 5, dtype=object)}},
        {"manifest": {**parts.manifest, "recipe": {"x": float("nan")}}},
        {"manifest": {**parts.manifest, "recipe": {"x": object()}}},
    ]
    for change in changes:
        with pytest.raises(UsageError, match=r"EV(413|415|43[1-4])"):
            parts.write(nowhere, **change)
        assert os.listdir(tmp_path) == []


def test_a_model_beyond_protobufs_limit_is_refused_before_anything_is_written(parts, tmp_path):
    huge = np.broadcast_to(np.float32(0), (1 << 30,))  # 4 GiB that take no memory
    with pytest.raises(UnsupportedError, match="EV414"):
        parts.write(tmp_path / "out", tensors={"huge": huge})
    assert os.listdir(tmp_path) == []


def test_the_manifest_lists_what_was_written(bundle_path):
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert {path.name for path in bundle_path.iterdir()} == {*manifest["files"], "manifest.json"}
    assert [entry["name"] for entry in manifest["tensors"]] == ["codes", "scale", "bias"]


def test_the_tables_of_fields_are_onnx_own():
    """Numbers and names come from onnx's descriptors; what is not listed is refused."""
    for message, table in graph._MESSAGES.items():
        outer, _, inner = message.partition(".")
        described = getattr(onnx, outer).DESCRIPTOR
        described = described.nested_types_by_name[inner] if inner else described
        for number, (name, part, most) in table.items():
            field = described.fields_by_number[number]
            assert field.name == name
            if part in graph._MESSAGES:
                assert field.message_type.full_name == f"onnx.{part}"
            else:
                kinds = {"int": (3, 5, 14), "float": (2,), "bytes": (12, 11)}
                assert field.type in kinds.get(part, (9, 12)), (message, name)
            assert (
                most > 1
                or not field.is_repeated
                or (message, name)
                in {
                    ("GraphProto", "input"),
                    ("GraphProto", "output"),
                    ("NodeProto", "output"),
                    ("TensorProto", "external_data"),
                }
            )


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31 - 1, 2**63 - 1])
def test_varints_are_protobufs(value):
    assert onnx.ModelProto.FromString(b"\x08" + varint(value)).ir_version == value


def test_an_appended_initializer_is_what_onnx_would_write():
    array = np.arange(300, dtype=np.float32).reshape(2, 150)
    expected = onnx.ModelProto()
    expected.graph.initializer.append(numpy_helper.from_array(array, "blocks.0.ä"))
    prefix = initializer_prefix("blocks.0.ä", "float32", (2, 150), array.nbytes)
    assert onnx.load_from_string(prefix + array.tobytes()) == expected
