"""What a damaged, unsafe or foreign bundle is refused for, and with which code."""

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.bundle import open_bundle
from edgevit.bundle.protobuf import varint
from edgevit.errors import BundleError


@pytest.fixture
def path(parts, tmp_path):
    return parts.write(tmp_path / "out")


def reseal(path, change=None, **files):
    """Change files and the manifest, and make every hash fit again, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, data in files.items():
        file_name = name.replace("_", ".")
        (path / file_name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][file_name] = {"sha256": digest, "size_bytes": len(data)}
    if change is not None:
        change(manifest)
    manifest.pop("manifest_sha256", None)
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["manifest_sha256"] = hashlib.sha256(canonical).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def open_and_read(path):
    bundle = open_bundle(path)
    return bundle.engine_onnx(), bundle.golden()


def refused(path, code):
    with pytest.raises(BundleError) as caught:
        open_and_read(path)
    assert caught.value.code == code
    assert caught.value.what
    return str(caught.value)


def test_resealing_itself_is_no_reason_to_refuse(path):
    reseal(path)
    assert open_bundle(path).golden()


def test_no_bundle(tmp_path):
    refused(tmp_path / "absent", "EV401")
    refused(tmp_path, "EV401")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "EV401")


@pytest.mark.parametrize("name", ["graph.onnx", "weights.bin", "golden.npz", "recipe.toml"])
def test_a_missing_file(path, name):
    (path / name).unlink()
    assert name in refused(path, "EV404")


@pytest.mark.parametrize("name", ["graph.onnx", "weights.bin", "reference.bin", "golden.npz"])
def test_a_flipped_byte_and_extra_bytes(path, name):
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    assert name in refused(path, "EV405")
    (path / name).write_bytes(bytes(data) + b"x")
    assert name in refused(path, "EV405")


def test_a_file_that_changes_after_opening(path):
    bundle = open_bundle(path)
    for name, read in (("weights.bin", bundle.engine_onnx), ("golden.npz", bundle.golden)):
        data = bytearray((path / name).read_bytes())
        data[0] ^= 1
        (path / name).write_bytes(data)
        with pytest.raises(BundleError, match=r"EV40[58]"):
            read()
    (path / "weights.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="EV405"):
        bundle.engine_onnx()


def test_a_newer_schema_says_to_upgrade(path):
    reseal(path, lambda manifest: manifest.update(schema_version=2))
    assert "pip install --upgrade" in refused(path, "EV403")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": true}',
        b'{"schema_version": 0}',
        b'{"schema_version": 1, "x": NaN}',
        b'{"schema_version": 1, "x": 1e999}',
        b'{"schema_version": 1, "x": "\\ud800"}',
        b'{"schema_version": ' + b"9" * 10_000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b" " * (17 << 20),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_manifest_that_is_not_a_manifest(path, text):
    (path / "manifest.json").write_bytes(text)
    refused(path, "EV402")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("model"),
        lambda m: m.pop("files"),
        lambda m: m.update(layers={}),
        lambda m: m.update(engine=[]),
        lambda m: m.update(engine={"session_config": 1}),
        lambda m: m["model"].update(input_size=[3, 8]),
        lambda m: m["model"].update(input_size=[3, 8, -8]),
        lambda m: m["model"].update(input_size=[3, 8, 10**9]),
        lambda m: m["model"].update(num_classes=True),
        lambda m: m["model"].pop("name"),
        lambda m: m["model"].update(flops="many"),
        lambda m: m["model"].update(parameters=-1),
        lambda m: m["model"].update(classes=5),
        lambda m: m["model"].update(classes=["cat", "dog"]),
        lambda m: m["model"].update(classes=list(range(7))),
        lambda m: m.update(layers=[1]),
        lambda m: m.update(warnings=[{"a": 1}]),
        lambda m: m["bits"].update(weight_mean=None),
        lambda m: m["bits"].update(act_mean=0),
        lambda m: m["files"].pop("recipe.toml"),
        lambda m: m["files"].pop("reference.bin"),
        lambda m: m["files"]["recipe.toml"].update(sha256="0" * 63),
        lambda m: m["files"]["recipe.toml"].update(size_bytes=-1),
        lambda m: m["files"]["recipe.toml"].update(size_bytes=10**12),
        lambda m: m["files"]["recipe.toml"].update(mode=1),
    ],
)
def test_keys_that_are_missing_or_of_another_type(path, change):
    reseal(path, change)
    refused(path, "EV402")


@pytest.mark.parametrize("shape", [(8, 16, 3), (8, 8, 3)])
def test_golden_images_of_another_model(path, shape):
    images, classes = np.zeros((1, *shape), np.uint8), 8
    reseal(path, golden_npz=npz(images=images, logits_simulated=np.zeros((1, classes), np.float32)))
    assert "golden.npz" in refused(path, "EV402")


def test_a_graph_of_another_model(path):
    reseal(path, lambda manifest: manifest["model"].update(num_classes=8))
    assert "logits" in refused(path, "EV419")

    def change(manifest):
        for table in ("model", "preprocessing"):
            manifest[table].update(input_size=[3, 8, 16])
        manifest["model"].update(num_classes=7)

    reseal(path, change)
    assert "an image" in refused(path, "EV419")


def test_an_edited_manifest_without_its_seal(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"tiny"', '"tony"'))
    refused(path, "EV402")


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "weights.bin\0", "manifest.json"],
)
def test_names_that_lead_elsewhere(path, name):
    record = {"sha256": "0" * 64, "size_bytes": 1}
    reseal(path, lambda manifest: manifest["files"].update({name: record}))
    refused(path, "EV406")


@pytest.mark.parametrize("name", ["manifest.json", "weights.bin"])
def test_links_that_lead_outside(path, tmp_path, name):
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    refused(path, "EV426")


def test_links_in_a_circle_devices_folders_and_pipes(path):
    for make in (
        lambda file: file.symlink_to(file),
        lambda file: file.symlink_to("/dev/zero"),
        lambda file: file.mkdir(),
        os.mkfifo,
    ):
        file = path / "weights.bin"
        file.unlink() if not file.is_dir() else file.rmdir()
        make(file)
        with pytest.raises(BundleError, match=r"EV42[46]"):
            open_bundle(path)


def test_a_link_to_the_bundle_itself_is_fine(path, tmp_path):
    (tmp_path / "latest").symlink_to(path)
    assert open_bundle(tmp_path / "latest").engine_onnx()


def first(**values):
    return lambda manifest: manifest["tensors"][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        first(offset=1),
        first(offset=-1),
        first(offset=0.0),
        first(size_bytes=1),
        first(size_bytes=10**9),
        first(size_bytes=True),
        first(bits=5),
        first(bits=8),
        first(bits=0),
        first(signed=False),
        first(signed=1),
        first(dtype="object"),
        first(dtype="float32"),
        first(dtype=["int8"]),
        first(encoding="pickle"),
        first(encoding="raw"),
        first(encoding="zlib"),
        first(shape=[7, -192]),
        first(shape=[2**31, 2**31]),
        first(shape=[2**20, 2**20]),
        first(shape=7 * 192),
        first(shape=[1] * 40),
        first(shape=["7", 192]),
        first(name=""),
        first(name="x" * 1000),
        first(name=3),
        first(name="bias"),
        first(name="a\nb"),
        first(extra=1),
        lambda m: m["tensors"][0].pop("name"),
        lambda m: m["tensors"].pop(),
        lambda m: m["tensors"].append(m["tensors"][0]),
        lambda m: m["tensors"].reverse(),
        lambda m: m["tensors"].__setitem__(0, None),
        lambda m: m["reference_tensors"].clear(),
    ],
)
def test_tensor_entries_that_can_not_be_right(path, change):
    reseal(path, change)
    refused(path, "EV407")


def test_a_decompression_bomb_stops_at_the_size_announced(path):
    import zlib

    bomb = zlib.compress(bytes(64 << 20), 9)
    weights = (path / "weights.bin").read_bytes()

    def change(manifest):
        scale = manifest["tensors"][1]
        assert scale["encoding"] == "zlib"
        offset, size = scale["offset"], scale["size_bytes"]
        changed = weights[:offset] + bomb[:size] + weights[offset + size :]
        (path / "weights.bin").write_bytes(changed)
        record = manifest["files"]["weights.bin"]
        record["sha256"] = hashlib.sha256(changed).hexdigest()

    reseal(path, change)
    refused(path, "EV408")


def test_an_initializer_that_is_stored_twice(path):
    model = onnx.load(path / "graph.onnx")
    tensor = helper.make_tensor("bias", TensorProto.FLOAT, [1], bytes(4), raw=True)
    model.graph.initializer.append(tensor)
    reseal(path, graph_onnx=model.SerializeToString())
    refused(path, "EV427")


def external(by_location):
    tensor = helper.make_tensor("outside", TensorProto.FLOAT, [1], bytes(4), raw=True)
    if by_location:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def in_initializer(model, tensor):
    model.graph.initializer.append(tensor)


def in_constant(model, tensor):
    model.graph.node.append(helper.make_node("Constant", [], ["outside"], value=tensor))


def in_subgraph(model, tensor):
    branch = helper.make_graph([], "branch", [], [], initializer=[tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))


def in_function(model, tensor):
    node = helper.make_node("Constant", [], ["outside"], value=tensor)
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "f", [], ["outside"], [node], opsets))


def in_sparse(model, tensor):
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_training(model, tensor):
    model.training_info.add().algorithm.initializer.append(tensor)


@pytest.mark.parametrize(
    "place", [in_initializer, in_constant, in_subgraph, in_function, in_sparse, in_training]
)
@pytest.mark.parametrize("by_location", [True, False])
@pytest.mark.parametrize("name", ["graph.onnx", "reference.onnx"])
def test_external_data_is_found_wherever_it_hides(path, place, by_location, name):
    model = onnx.load(path / name)
    place(model, external(by_location))
    reseal(path, **{name.replace(".", "_"): model.SerializeToString()})
    # Elsewhere than among the constants there is no tensor at all in a bundle's graph.
    assert name in refused(path, "EV430" if place is in_initializer else "EV418")


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x3a\xff\x01", b"\x3b", b"\x3a\x05abc", b"\x00\x00", b"\x08" + b"\xff" * 11]
)
def test_a_graph_that_is_not_protobuf(path, data):
    reseal(path, graph_onnx=data)
    refused(path, "EV409")


def test_a_graph_nested_without_end(path):
    data = b""
    for _ in range(2000):  # GraphProto.node.attribute.g
        attribute = b"\x32" + varint(len(data)) + data
        node = b"\x2a" + varint(len(attribute)) + attribute
        data = b"\x0a" + varint(len(node)) + node
    reseal(path, graph_onnx=b"\x3a" + varint(len(data)) + data)
    assert "field 6 of AttributeProto" in refused(path, "EV418")


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npz_with_header(header, body=b""):
    stream = io.BytesIO()
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images.npy", content)
    return stream.getvalue()


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
HUNGRY = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        npz(images=np.zeros((1, 8, 8, 3), np.uint8)),
        npz(images=np.zeros((1, 8, 8, 3)), logits_simulated=np.zeros((1, 7), np.float32)),
        npz(images=np.array([{"a": 1}], dtype=object)),
        npz(images=np.zeros(1, dtype=[("a", "f4")])),
        npz_with_header(HUGE),
        npz_with_header(HUNGRY, b"cos\nsystem\n(S'true'\ntR."),
        npz_with_header("__import__('os')"),
        npz_with_header("(" * 100),
    ],
    ids=range(10),
)
def test_golden_images_that_are_damaged_or_dangerous(path, data):
    reseal(path, golden_npz=data)
    refused(path, "EV410")


def test_a_golden_archive_that_grows(path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for index in range(2):
            with archive.open(f"images{index}.npy", "w") as member:
                for _ in range(130):
                    member.write(bytes(1 << 20))
    data = stream.getvalue().replace(b"images0.npy", b"images_.npy")
    assert len(data) < 1 << 19
    reseal(path, golden_npz=data)
    refused(path, "EV410")
    renamed = data.replace(b"images_.npy", b"images.npy\0").replace(
        b"images1.npy", b"names.npy\0\0"
    )
    reseal(path, golden_npz=renamed)
    refused(path, "EV410")


def test_a_recipe_that_is_not_text(path):
    reseal(path, recipe_toml=b"\xff\xfe")
    with pytest.raises(BundleError, match="EV402"):
        open_bundle(path).recipe_toml()
