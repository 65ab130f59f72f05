"""Command lines against the options of each version; parsers on recorded output."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import DeviceError, EnvironmentError_
from edgevit.runner.engines.tensorrt import EngineOptions, built_engine
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.trtexec import (
    Trtexec,
    build_arguments,
    find_trtexec,
    latency_arguments,
    profile_arguments,
    run_arguments,
)
from edgevit.runner.engines.tensorrt.trtexec_report import (
    logits_from_export,
    report_from_output,
    times_ms_from_export,
    version_from_banner,
)
from edgevit.runner.engines.tensorrt.trtexec_session import EngineFile, TrtexecSession

VERSIONS = {"10.3": (10, 3, 0), "10.13": (10, 13, 3), "11.1": (11, 1, 0)}
GONE_OR_IGNORED_IN_11 = {
    "--stronglyTyped",
    "--useCudaGraph",
    "--useSpinWait",
    "--noDataTransfers",
    "--separateProfileRun",
    "--directIO",
}
PLAN = Path("model.plan")


def commands(version):
    shape = {"input_name": "image", "shape": (2, 3, 224, 224)}
    settings = BuildSettings(best_batch=2, max_batch=8)
    return {
        "build": build_arguments(
            version,
            Path("model.onnx"),
            PLAN,
            settings,
            input_name="image",
            image_shape=(3, 224, 224),
            timing_cache=Path("timings"),
        ),
        "latency": latency_arguments(version, PLAN, times=Path("t.json"), **shape),
        "profile": profile_arguments(
            version, PLAN, profile=Path("p.json"), layers=Path("l.json"), **shape
        ),
        "run": run_arguments(version, PLAN, images=Path("i.bin"), outputs=Path("o.json"), **shape),
    }


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("what", ["build", "latency", "profile", "run"])
def test_every_flag_is_an_option_of_that_version(name, what, recorded):
    known = set(json.loads(recorded("trtexec_flags.json"))[name])
    flags = {argument.split("=")[0] for argument in commands(VERSIONS[name])[what]}
    assert flags <= known
    if name == "11.1":
        assert not flags & GONE_OR_IGNORED_IN_11


@pytest.mark.parametrize("name", VERSIONS)
def test_no_precision_flag_is_ever_given(name):
    """The graph says the precision; with --stronglyTyped such a flag is an error."""
    flags = {argument for arguments in commands(VERSIONS[name]).values() for argument in arguments}
    assert not flags & {"--fp16", "--int8", "--fp8", "--best", "--bf16"}
    assert ("--stronglyTyped" in flags) == (name != "11.1")


def test_both_majors_measure_the_same():
    """11 launches graphs, spins and does not copy by itself; 10 has to be told."""
    old, new = commands(VERSIONS["10.3"])["latency"], commands(VERSIONS["11.1"])["latency"]
    assert set(old) - set(new) == {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"}
    assert set(new) <= set(old)
    assert "--includeDataTransfers" in commands(VERSIONS["11.1"])["run"]


def test_shapes_and_memory():
    build = commands(VERSIONS["10.3"])["build"]
    assert "--minShapes=image:1x3x224x224" in build
    assert "--optShapes=image:2x3x224x224" in build
    assert "--maxShapes=image:8x3x224x224" in build
    assert "--memPoolSize=workspace:1024M" in build


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8502", (8, 5, 2)),
        ("100300", (10, 3, 0)),
        ("101303", (10, 13, 3)),
        ("110100", (11, 1, 0)),
        ("11.1.0.106", (11, 1, 0)),
    ],
)
def test_versions_in_banners(text, expected):
    assert version_from_banner(text) == expected


def test_performance_summary(recorded):
    report = report_from_output(recorded("trtexec_10.3_orin.log"))
    assert report.version == (10, 3, 0)
    assert report.passed
    assert report.throughput_qps == 318.007
    compute = report.statistics_ms["GPU Compute Time"]
    assert (compute["median"], compute["p99"], compute["min"]) == (3.14062, 3.15039, 3.12671)
    assert report.statistics_ms["Enqueue Time"]["p90"] == 0.932861
    assert json.dumps(report.to_dict())


def test_device(recorded):
    report = report_from_output(recorded("trtexec_8.5_orin.log"))
    assert (report.device, report.compute_capability) == ("Orin", "8.7")
    assert report.version == (8, 5, 2)
    assert not report.passed
    assert report.throughput_qps is None


def test_passed_with_errors_is_not_passed(recorded):
    report = report_from_output(recorded("trtexec_10.13_false_pass.log"))
    assert not report.passed
    assert report.version == (10, 13, 3)
    assert "incompatible plan" in report.errors[0]


def test_times(recorded):
    times_ms = times_ms_from_export(recorded("resnet_qat_a100.times.json"))
    assert times_ms.tolist()[:2] == [0.909312, 0.883712]
    with pytest.raises(DeviceError, match="EV771"):
        times_ms_from_export('[{"latencyMs": 1}]')


def test_outputs():
    """The layout of exportJSONOutput in NVIDIA's sampleReporting.cpp, nan and inf as C++ has it."""
    text = '[\n  { "name" : "logits"\n  , "dimensions" : "2x3"\n  , "values" : [ 1, -2.5, 3e-05'
    found = logits_from_export(text + ", nan, -inf, 6 ]\n  }\n]\n")
    assert found.dtype == np.float32
    assert found.shape == (2, 3)
    assert found[0].tolist() == [1, -2.5, np.float32(3e-05)]
    assert not np.isfinite(found[1, :2]).any()
    with pytest.raises(DeviceError, match="EV771"):
        logits_from_export(text + ", 4 ]\n  }\n]\n")


SCRIPT = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    --help) echo "&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec"; exit 1;;
    --loadInputs=image:*) inputs="${{argument#--loadInputs=image:}}";;
    --exportOutput=*) outputs="${{argument#--exportOutput=}}";;
  esac
done
{body}
"""
ANSWER = """python3 - "$inputs" "$outputs" <<'END'
import array, sys
values = array.array("f", open(sys.argv[1], "rb").read())
batch = len(values) // 12
sums = [sum(values[12 * i : 12 * i + 12]) for i in range(batch)]
text = ", ".join(f"{value}, {2 * value}" for value in sums)
dimensions = f"{batch}x2"
end = " ] } ]"
open(sys.argv[2], "w").write(
    '[ { "name" : "logits", "dimensions" : "' + dimensions + '", "values" : [ ' + text + end
)
END
echo "&&&& PASSED TensorRT.trtexec [TensorRT v100300]"
"""


def tool(folder, body, version="100300"):
    """A program that answers as trtexec does, run as a real process."""
    path = folder / "trtexec"
    path.write_text(SCRIPT.format(version=version, body=body))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_session_through_a_process(tmp_path):
    found = Trtexec(tool(tmp_path, ANSWER))
    session = TrtexecSession(found, EngineFile(PLAN, "image", (3, 2, 2), 2))
    images = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)
    logits = session.run(images)  # two processes: batches of 2 and 1
    sums = images.sum(axis=(1, 2, 3))
    assert np.array_equal(logits, np.stack([sums, 2 * sums], axis=1))
    assert session.engine == "tensorrt 10.3.0"


def test_a_tool_that_fails_says_why(tmp_path):
    body = 'echo "[09/25/2026-10:00:02] [E] Error[1]: out of memory"; exit 1'
    found = Trtexec(tool(tmp_path, body))
    with pytest.raises(DeviceError, match="out of memory") as caught:
        found.call(["--loadEngine=x"])
    assert caught.value.code == "EV772"


def test_a_tool_that_hangs_or_does_not_start_is_said(tmp_path, monkeypatch):
    found = Trtexec(tool(tmp_path, "exec sleep 30"))
    monkeypatch.setattr("edgevit.runner.engines.tensorrt.trtexec._TIMEOUT_SECONDS", 0.2)
    with pytest.raises(DeviceError, match="EV772") as caught:
        found.call(["--loadEngine=x"])
    assert "0.2 seconds" in caught.value.why
    found.path.write_bytes(b"\x7fELF of another processor")
    with pytest.raises(DeviceError, match="EV772"):
        Trtexec(found.path)


BUILD = """for argument in "$@"; do
  case "$argument" in
    --saveEngine=*) printf plan > "${argument#--saveEngine=}";;
    --timingCacheFile=*) echo "${argument#--timingCacheFile=}" >> "$0.timings";;
  esac
done
{end}
"""
PASSED = 'echo "&&&& PASSED TensorRT.trtexec [TensorRT v100300]"'


def built(folder, bundle_path, end, monkeypatch, version="100300"):
    path = tool(folder, BUILD.replace("{end}", end), version)
    monkeypatch.setenv("EDGEVIT_TRTEXEC", str(path))
    options = EngineOptions(tool="trtexec", cache_folder=folder / "cache")
    return built_engine(open_bundle(bundle_path), options=options)


def test_an_engine_is_built_once_and_timings_belong_to_a_version(
    tmp_path, bundle_path, monkeypatch
):
    assert built(tmp_path, bundle_path, PASSED, monkeypatch).build_seconds > 0
    assert built(tmp_path, bundle_path, PASSED, monkeypatch).build_seconds is None
    built(tmp_path, bundle_path, PASSED, monkeypatch, version="101303")
    timings = (tmp_path / "trtexec.timings").read_text().splitlines()
    assert len(timings) == len(set(timings)) == 2
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [
        ".json",
        ".json",
        ".plan",
        ".plan",
    ]


def test_a_build_that_fails_leaves_nothing_half_written(tmp_path, bundle_path, monkeypatch):
    with pytest.raises(DeviceError, match="EV772"):
        built(tmp_path, bundle_path, "exit 1", monkeypatch)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_old_tool_is_refused(tmp_path):
    with pytest.raises(EnvironmentError_, match="EV751"):
        Trtexec(tool(tmp_path, "", version="8502"))


def test_a_missing_tool_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEVIT_TRTEXEC", str(tmp_path / "none"))
    with pytest.raises(EnvironmentError_, match="EV770"):
        find_trtexec()
