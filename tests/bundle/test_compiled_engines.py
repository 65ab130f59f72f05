"""Compiled engines and kernel tables in a bundle: kept, left out, refused when damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.bundle import leftovers, open_bundle
from edgevit.bundle.compiled import CompiledFile
from edgevit.bundle.kernels import MAX_KERNELS_BYTES, bytes_from_tables
from edgevit.bundle.leftovers import find
from edgevit.bundle.manifest import ENGINE_FILES, dump_manifest
from edgevit.bundle.rewriting import write_compiled
from edgevit.errors import BundleError, EnvironmentError_, UsageError

ROOT = Path(__file__).resolve().parents[2]
ENGINE = CompiledFile(
    variant="int8",
    capabilities=("SM86", "SM89"),
    engine="tensorrt_rtx",
    version="1.7.1.116",
    batches=(1, 8, 16),
    list_sha256="ab" * 32,
    seconds=1.25,
    data=b"an engine" * 1000,
)
KERNEL = {
    "name": "gemm",
    "kind": "gemm",
    "inputs": [{"name": "image", "precision": "int8", "shape": [-1, 3, 8, 8]}],
    "constants": [],
    "outputs": [],
    "tactic": "__myelin_CASK_STUB",
    "onnx_nodes": ["gemm"],
}
TABLE = {
    "variant": "int8",
    "engine": "tensorrt_rtx 1.7.1.116",
    "capabilities": ["SM86", "SM89"],
    "max_batch": 16,
    "layers": [KERNEL],
    "list_sha256": "ab" * 32,
}


def put(path, *engines, target=None, tables=(TABLE,), variants=("int8",), overwrite=True):
    write_compiled(
        open_bundle(path),
        path if target is None else target,
        variants=variants,
        engines=engines,
        kernel_tables=tables,
        overwrite=overwrite,
    )
    return open_bundle(path if target is None else target)


@pytest.fixture
def path(parts, tmp_path):
    return parts.write(tmp_path / "out")


@pytest.fixture
def compiled(path):
    return put(path, ENGINE).path


def contents(folder):
    return {entry.name: entry.read_bytes() for entry in Path(folder).iterdir()}


def test_engines_are_added_and_nothing_else_changes(path, tmp_path):
    before = contents(path)
    bundle = put(path, ENGINE)
    after = contents(path)
    assert set(after) - set(before) == {"engine_int8_sm86.rtx", "kernels.json"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json"}
    (row,) = bundle.engines()
    assert row == ENGINE.to_dict()
    for capability in ENGINE.capabilities:
        assert bundle.compiled_engine("int8", capability) == ENGINE.data
    assert bundle.kernel_tables() == [TABLE]
    assert bundle.manifest["created"] == json.loads(before["manifest.json"])["created"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_card_without_an_engine(compiled):
    for variant, capability in (("int8", "SM120"), ("fp16", "SM86")):
        with pytest.raises(UsageError, match="EV436"):
            open_bundle(compiled).compiled_engine(variant, capability)


def test_bundles_without_them_have_none(path):
    bundle = open_bundle(path)
    assert bundle.engines() == []
    assert bundle.kernel_tables() == []
    assert bundle.size_bytes("compiled") == 0


def test_kernel_tables_are_kept_when_a_bundle_is_written(parts, tmp_path):
    bundle = open_bundle(parts.write(tmp_path / "out", kernel_tables=[TABLE]))
    assert bundle.kernel_tables() == [TABLE]
    with pytest.raises(BundleError, match="EV435"):
        parts.write(tmp_path / "bad", kernel_tables=[{**TABLE, "variant": "int3"}])
    assert os.listdir(tmp_path) == ["out"]


def test_sizes_state_them_apart(path):
    before = open_bundle(path)
    bundle = put(path, ENGINE)
    sizes = {kind: bundle.size_bytes(kind) for kind in ("bundle", "compiled", "engine", "total")}
    assert sizes["compiled"] == len(ENGINE.data)
    assert sizes["engine"] == before.size_bytes("engine")
    assert sizes["bundle"] - before.size_bytes("bundle") < 3000  # the table and the row
    everything = sum(map(len, contents(path).values()))
    assert sizes["total"] == everything
    assert everything == sizes["bundle"] + sizes["compiled"] + bundle.size_bytes("reference")


def test_built_again_it_replaces_those_of_its_variants_only(path):
    put(path, ENGINE)
    other = replace(ENGINE, capabilities=("SM120",), data=b"newer")
    bundle = put(path, other, tables=[{**TABLE, "capabilities": ["SM120"]}])
    assert [row["file"] for row in bundle.engines()] == ["engine_int8_sm120.rtx"]
    assert [table["capabilities"] for table in bundle.kernel_tables()] == [["SM120"]]
    assert not (path / "engine_int8_sm86.rtx").exists()
    kept = put(path, tables=(), variants=())
    assert kept.compiled_engine("int8", "SM120") == b"newer"
    assert len(kept.kernel_tables()) == 1
    assert put(path, tables=()).engines() == []


def test_a_new_bundle_leaves_the_old_one_alone(path, tmp_path):
    before = contents(path)
    bundle = put(path, ENGINE, target=tmp_path / "new", overwrite=False)
    assert contents(path) == before
    assert bundle.engine_onnx() == open_bundle(path).engine_onnx()
    with pytest.raises(UsageError, match="EV411"):
        put(path, ENGINE, target=tmp_path / "new", overwrite=False)


def test_a_copy_without_its_engines_opens(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "copy", ignore=shutil.ignore_patterns("*.rtx"))
    bundle = open_bundle(tmp_path / "copy")
    assert bundle.engines() == []
    assert bundle.size_bytes("compiled") == 0
    assert bundle.kernel_tables() == [TABLE]
    assert bundle.size_bytes("total") == sum(map(len, contents(tmp_path / "copy").values()))
    with pytest.raises(UsageError, match="EV436"):
        bundle.compiled_engine("int8", "SM86")
    rebuilt = put(tmp_path / "copy", replace(ENGINE, data=b"rebuilt"))
    assert rebuilt.compiled_engine("int8", "SM89") == b"rebuilt"


def test_a_flipped_byte_and_a_change_after_opening(compiled):
    opened = open_bundle(compiled)
    for name, read in (
        ("engine_int8_sm86.rtx", lambda: opened.compiled_engine("int8", "SM86")),
        ("kernels.json", opened.kernel_tables),
    ):
        data = bytearray((compiled / name).read_bytes())
        data[len(data) // 2] ^= 1
        (compiled / name).write_bytes(data)
        with pytest.raises(BundleError, match="EV405"):
            open_bundle(compiled)
        with pytest.raises(BundleError, match="EV405"):
            read()


def test_an_engine_that_is_a_link(compiled, tmp_path):
    file = compiled / "engine_int8_sm86.rtx"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="EV426"):
        open_bundle(compiled)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="EV404"):
        open_bundle(compiled)


def reseal(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))


def in_row(**values):
    return lambda manifest: manifest["engines"][0].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(engines={}),
        lambda m: m.update(engines=[1]),
        lambda m: m.update(engines=[]),
        lambda m: m.pop("engines"),
        lambda m: m.update(engines=m["engines"] * 2),
        lambda m: m.update(engines=m["engines"] * 1000),
        lambda m: m["engines"][0].pop("version"),
        lambda m: m["files"].pop("engine_int8_sm86.rtx"),
        lambda m: m["files"].update({"engine_int8_sm75.rtx": m["files"]["engine_int8_sm86.rtx"]}),
        in_row(more=1),
        in_row(variant="fp16"),
        in_row(variant=["int8"]),
        in_row(file="../engine"),
        in_row(file="weights.bin"),
        in_row(file="engine_int8_sm89.rtx"),
        in_row(engine="../x"),
        in_row(version="newest"),
        in_row(version="1." + "1" * 400),
        in_row(capabilities=[]),
        in_row(capabilities=["SM86", "SM86"]),
        in_row(capabilities=["SM86", "SM1"]),
        in_row(capabilities=["SM86", {}]),
        in_row(capabilities="SM86"),
        in_row(batches=[1, 8]),
        in_row(batches=[1, 8, 1 << 40]),
        in_row(batches=[8, 1, 16]),
        in_row(batches=[True, 8, 16]),
        in_row(list_sha256="ab"),
        in_row(list_sha256=None),
        in_row(seconds=-1),
        in_row(seconds="1"),
        in_row(seconds=True),
    ],
)
def test_a_manifest_with_wrong_engines_is_refused(compiled, change):
    reseal(compiled, change)
    with pytest.raises(BundleError, match="EV402"):
        open_bundle(compiled)


def test_a_name_that_no_engine_has_is_refused(compiled):
    with pytest.raises(BundleError, match="EV406"):
        reseal(compiled, lambda m: m["files"].update({"engine.rtx": m["files"]["kernels.json"]}))


def with_kernels(folder, text):
    """Put another kernels.json into a bundle, with a hash that fits."""
    import hashlib

    (folder / "kernels.json").write_bytes(text)
    record = {"sha256": hashlib.sha256(text).hexdigest(), "size_bytes": len(text)}
    reseal(folder, lambda manifest: manifest["files"].update({"kernels.json": record}))


def tables(**changes):
    return json.dumps({"tables": [{**TABLE, **changes}]}).encode()


def kernels(**changes):
    return tables(layers=[{**KERNEL, **changes}])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"tables": {}}',
        b'{"tables": [1]}',
        b'{"tables": [], "more": 1}',
        b'{"tables": [], "tables": []}',
        b'{"tables": [NaN]}',
        b"[" * 200_000,
        b'{"tables": [' + b"[]," * 400_000 + b"[]]}",
        b'{"tables": [' + b"1" * 10_000 + b"]}",
        tables(more=1),
        tables(variant="fp16"),  # a variant that this bundle has not
        tables(variant="../x"),
        tables(variant=[]),
        tables(engine=1),
        tables(engine="x" * 5000),
        tables(capabilities="SM86"),
        tables(capabilities=["SM86"] * 1000),
        tables(max_batch=0),
        tables(max_batch=1.5),
        tables(layers={}),
        tables(layers=[[]]),
        tables(layers=[KERNEL] * 20_000),
        tables(list_sha256="x" * 64),
        kernels(more=1),
        kernels(name=1),
        kernels(name="\ud800"),
        kernels(inputs=[{"name": "x", "precision": "int8"}]),
        kernels(inputs=[{"name": "x", "precision": "int8", "shape": [1.5]}]),
        kernels(inputs=[{"name": "x", "precision": "int8", "shape": [1] * 99}]),
        kernels(inputs=[{"name": "x", "precision": "int8", "shape": [10**30]}]),
        kernels(onnx_nodes=[1]),
        kernels(onnx_nodes=["x"] * 2000),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_damaged_kernel_tables_are_refused(compiled, text):
    with_kernels(compiled, text)
    bundle = open_bundle(compiled)
    assert bundle.compiled_engine("int8", "SM86")  # the rest can be used
    with pytest.raises(BundleError, match="EV435"):
        bundle.kernel_tables()


def test_kernel_tables_that_are_too_large_are_not_read(compiled):
    with_kernels(compiled, b" " * (MAX_KERNELS_BYTES + 1))
    with pytest.raises(BundleError, match="EV405"):
        open_bundle(compiled).kernel_tables()


def test_a_bundle_that_changed_meanwhile_is_not_replaced(parts, path):
    bundle = open_bundle(path)
    parts.golden["images"] = parts.golden["images"] ^ 1
    parts.write(path, overwrite=True)
    newer = contents(path)
    with pytest.raises(EnvironmentError_, match="EV440"):
        write_compiled(
            bundle,
            path,
            variants=("int8",),
            engines=[ENGINE],
            kernel_tables=[TABLE],
            overwrite=True,
        )
    assert contents(path) == newer
    assert os.listdir(path.parent) == ["out"]


def test_foreign_files_in_the_folder_are_not_lost(path):
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="EV411"):
        put(path, ENGINE)
    assert (path / "notes.txt").read_text() == "mine"


def test_the_names_of_engines_are_a_closed_list():
    assert len(set(ENGINE_FILES.values())) == len(ENGINE_FILES)
    assert bytes_from_tables([]) == b'{"tables":[]}'


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from test_compiled_engines import ENGINE, put
from dataclasses import replace
from pathlib import Path
from edgevit.errors import EdgeViTError
print("writing", flush=True)
try:
    while True:
        put(Path({path!r}), replace(ENGINE, data=bytes({size})))
        {after}
except EdgeViTError as error:
    print(error)
    sys.exit(error.exit_status)
"""


def writer(path, size, after="pass"):
    here = Path(__file__).parent
    names = {"root": str(ROOT), "tests": str(ROOT / "tests"), "here": str(here)}
    return WRITER.format(path=str(path), size=size, after=after, **names)


@pytest.mark.skipif(leftovers.fcntl is None, reason="this system has no locks")
def test_a_kill_at_any_time_leaves_a_whole_bundle(path, tmp_path, monkeypatch):
    """A real SIGKILL while engines are put into it, again and again."""
    monkeypatch.setattr(leftovers, "_NEW_SECONDS", 0.0)
    begun = 0
    for delay in range(4):
        code = [sys.executable, "-c", writer(path, 4 << 20)]
        with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "writing\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.02 + 0.025 * delay)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        bundle = open_bundle(path)
        assert bundle.engine_onnx()
        begun += len(find(tmp_path))
        assert all(bundle.compiled_engine("int8", "SM86") for _ in bundle.engines())
    assert begun, "no kill came while something was being written"
    put(path, ENGINE)
    assert os.listdir(tmp_path) == ["out"]
    assert find(tmp_path) == []


def test_a_full_disk_leaves_the_old_bundle(parts, tmp_path):
    """A tmpfs of 2 MiB in a mount namespace of its own really runs out of space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    path = parts.write(tmp_path / "made")
    (tmp_path / "write.py").write_text(writer(disk / "out", 4 << 20, "break"))
    script = (
        f"mount -t tmpfs -o size=2m tmpfs {disk} || exit 77\n"
        f"cp -r {path} {disk}/out\n"
        f"{sys.executable} {tmp_path / 'write.py'}; status=$?\n"
        f"cmp {path}/manifest.json {disk}/out/manifest.json && echo same\n"
        f"echo left: $(ls -A {disk}); exit $status"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine does not let a test mount a tmpfs")
    assert done.returncode == EnvironmentError_.exit_status, done.stdout + done.stderr
    assert "EV412" in done.stdout
    assert "No space left on device" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["same", "left: out"]
