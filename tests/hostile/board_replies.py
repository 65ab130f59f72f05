"""Bad replies of a board, one fault each, and the error that each of them ends in."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

ESC = "\x1b]0;owned\x07\x1b[31m[/x][bold]"
DEEP = "[" * 100_000


@dataclass(frozen=True)
class Case:
    """What a board does wrong.

    Args:
        make: Takes what an honest board says, returns the case for board_python.py.
        code: The error it ends in; "" where it is taken, with nothing in it that harms.
        command: The verb that meets it and its options.
    """

    make: Callable[[dict[str, Any]], dict[str, Any]]
    code: str
    command: tuple[str, ...] = ("deploy",)


CASES: dict[str, Case] = {}


def case(name: str, code: str, **content: Any) -> None:
    CASES[name] = Case(lambda good: content, code)


def raw(data: str | bytes, **more: Any) -> dict[str, Any]:
    data = data.encode() if isinstance(data, str) else data
    return {"raw": base64.b64encode(data).decode(), **more}


def marked(text: str | bytes) -> dict[str, Any]:
    text = text.encode() if isinstance(text, str) else text
    return raw(b"@edgevit " + text + b"\n")


def steps(verb: str, *done: dict[str, Any]) -> dict[str, Any]:
    return {"steps": {verb: list(done)}}


def answers(verb: str, name: str, code: str, *done: dict[str, Any]) -> None:
    CASES[f"{verb}: {name}"] = Case(lambda good: steps(verb, *done), code)


ALIVE = base64.b64encode(b'@edgevit {"reply": "alive"}\n').decode()
DRIP = base64.b64encode(b" ").decode()
for verb in ("probe", "receive", "start", "send"):
    answers(verb, "nothing", "EV815" if verb != "start" else "EV833")
    answers(verb, "silence", "EV835", {"sleep": 60})
    answers(verb, "alive for ever", "EV835", {"beat": ALIVE, "every": 0.2})
    answers(verb, "no JSON", "EV833", marked("{"))
    answers(verb, "a list", "EV833", marked("[1, 2]"))
    answers(verb, "no kind", "EV833", marked("{}"))
    answers(verb, "an unknown kind", "EV833", {"say": {"reply": "shell"}})
    answers(verb, "not UTF-8", "EV833", marked(b'{"reply": "\xff\xfe"}'))
    answers(verb, "a failure of unknown kind", "EV833", marked('{"reply":"failed","kind":"x"}'))
    answers(verb, "a line of 5 MB", "EV834", marked("x" * (5 << 20)))
answers("probe", "a line of 3 GB", "EV834", raw("x" * (1 << 20), times=3000))
answers("probe", "1 GB of lines", "EV83[45]", raw("x" * (1 << 20) + "\n", times=1000))
answers("probe", "drops of a line", "EV835", {"beat": DRIP, "every": 0.1})
answers("probe", "half a line, then nothing", "EV835", raw("@edgevit {"), {"sleep": 60})
answers("probe", "an end that does not end", "EV835", {"close": True, "sleep": 60})
answers("probe", "deep", "EV833", marked(DEEP))
answers("probe", "a loud failure", "EV816", {"stderr": "Gzt4eHh4", "times": 10**6}, {"exit": 1})
answers("probe", "status 255", "EV815", {"exit": 255})
answers("probe", "another reply", "EV833", {"say": {"reply": "done"}})
FAILED = {"reply": "failed", "kind": "system", "message": ESC * 100}
answers("probe", "a failure with escapes", "EV824", {"say": FAILED})
answers("probe", "a folder of another", "EV832", {"say": {**FAILED, "kind": "folder"}})
answers("probe", "a failure without words", "EV833", marked('{"reply":"failed","kind":"full"}'))


def board(name: str, code: str, **changed: Any) -> None:
    """A reply to the probe with other values; ... for a key that is missing."""

    def make(good: dict[str, Any]) -> dict[str, Any]:
        content = {"reply": "board", **good["board"], **changed}
        kept = {key: value for key, value in content.items() if value is not ...}
        return steps("probe", marked(json.dumps(kept)))

    CASES[f"board: {name}"] = Case(make, code)


for key in ("python", "machine", "root", "free_bytes", "present_bytes"):
    board(f"no {key}", "EV833", **{key: ...})
board("Python as a number", "EV833", python=3)
board("Python in words", "EV833", python="three")
board("Python 2", "EV816", python="2.7.18")
board("a root that is relative", "EV833", root="../../etc")
board("a root of two lines", "EV833", root="/tmp/x\nrm -rf ~")
board("a root with escapes", "EV833", root="/tmp/" + ESC)
board("less than no room", "EV833", free_bytes=-1)
board("half a byte", "EV833", free_bytes=0.5)
board("room without end", "EV833", free_bytes=float("inf"))
board("room that is no number", "EV833", free_bytes=float("nan"))
board("more digits than a number has", "EV833", free_bytes=10**400)
board("true room", "EV833", free_bytes=True)
board("one more key", "EV833", shell="/bin/sh")
board("no room", "EV843", free_bytes=0, present_bytes=0)
board("a machine with escapes", "", machine=ESC)


def facts(name: str, code: str, *keys: str, value: Any) -> None:
    """Facts with another value at a path; ... removes it."""

    def make(good: dict[str, Any]) -> dict[str, Any]:
        content = json.loads(good["facts"])
        put_at(content, keys, value)
        return {"facts": json.dumps(content)}

    CASES[f"facts: {name}"] = Case(make, code)


def put_at(content: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    if value is ...:
        del content[keys[-1]]
    else:
        content[keys[-1]] = value


case("facts: none", "EV782", facts="")
case("facts: a list", "EV782", facts="[1]")
case("facts: not UTF-8", "EV782", facts='{"schema_version": 1, "kind": "\xff"}')
case("facts: deep", "EV782", facts='{"schema_version": 1, "kind": ' + DEEP)
answers("facts", "silence", "EV835", {"sleep": 60})
answers("facts", "3 GB", "EV834", raw("x" * (1 << 20), times=3000))
answers("facts", "a failure with escapes", "EV816", {"stderr": "G1szMW14Cg=="}, {"exit": 1})
facts("of another version", "EV782", "schema_version", value=2)
facts("no GPU's branch", "EV782", "gpu", value=...)
facts("a capability in words", "EV782", "gpu", "compute_capability", value="many")
facts("a release in words", "EV782", "l4t", value="x.y")
facts("negative memory", "EV782", "memory_bytes", "available", value=-5)
facts("NaN memory", "EV782", "memory_bytes", "available", value=float("nan"))
facts("a power mode that is a list", "EV782", "power_mode", value=[])
facts("rails that are numbers", "EV782", "rails", value=[1])
facts("a version that is null", "EV782", "python", "version", value=None)
facts("problems in a list", "EV782", "python", "problems", value=["numpy"])
facts("numpy that fails with escapes", "EV818", "python", "problems", value={"numpy": ESC})
facts("a model with escapes", "", "model", value=ESC)
facts("a target with escapes", "EV782", "target", value="[bold]" + ESC)


def doctor(name: str, code: str, *options: str, **changed: Any) -> None:
    """Facts that the doctor judges; whole branches, merged."""

    def make(good: dict[str, Any]) -> dict[str, Any]:
        content = json.loads(good["facts"])
        for key, value in changed.items():
            merged = isinstance(value, dict) and content[key] is not None
            content[key] = {**content[key], **value} if merged else value
        return {"facts": json.dumps(content)}

    CASES[f"doctor: {name}"] = Case(make, code, ("doctor", *options))


ORIN = {"name": "Orin", "compute_capability": "8.7"}
NO_MAXIMUM = {"min": 1, "max": None, "cur": 1}
NO_CUDA = {"cuda": None, "pycuda": None, "torch": None}
doctor("clocks that are locked and unknown", "EV783", kind="jetson",
       gpu={**ORIN, "clocks_locked": True, "clock_hz": None})  # fmt: skip
doctor("a maximum that is null", "EV783", kind="jetson",
       gpu={**ORIN, "clocks_locked": True, "clock_hz": NO_MAXIMUM})  # fmt: skip
doctor("a driver that only looks like digits", "EV783", cuda=None, python=NO_CUDA,
       gpu={**ORIN, "driver": "²"})  # fmt: skip
doctor("no capability", "EV783", gpu={"name": ESC, "compute_capability": None})
doctor("a Python that is a command", "EV783", "--target", "cpu",
       python={"executable": "python3; touch owned #", "onnxruntime": None})  # fmt: skip
doctor("a folder that is a command", "EV783", "--target", "cpu",
       disk_bytes={"path": "/home/$(touch owned)", "free": 0})  # fmt: skip
doctor("versions in words", "EV783", gpu=ORIN, tensorrt={"version": f"ten{ESC}"})
doctor("a release without an end", "EV782", kind="jetson", l4t="3" * 5000)
doctor("rails with escapes", "EV783", kind="jetson", gpu=ORIN, rails=[ESC])
MODES = {"id": "0", "name": ESC, "modes": {"0": ESC, "1": "MAXN"}}
doctor("modes with escapes", "EV783", kind="jetson", gpu=ORIN, power_mode=MODES)
doctor("modes that are commands", "EV782", kind="jetson", gpu=ORIN,
       power_mode={**MODES, "modes": {"0; touch owned": "MAXN"}})  # fmt: skip


def present(name: str, **changed: Any) -> None:
    """What a board has of the first file, wrongly; the list as `files`."""
    first = {"bytes": 0, "sha256": "0" * 64, "whole": False, **changed}
    answers("receive", name, "EV833", {"say": {"reply": "present", "files": [first]}})


present("one of many files")
present("negative bytes", bytes=-1)
present("no hash", sha256="../../etc/passwd")
present("whole with another hash", whole=True)
answers("receive", "too many", "EV833", {"say": {"reply": "present", "files": [{}] * 200_000}})
answers("receive", "received first", "EV833", {"say": {"reply": "received", "bytes": 1}})
answers("receive", "complete first", "EV833", {"say": {"reply": "complete"}})


def lines(name: str, code: str, *texts: Any, **more: Any) -> None:
    said = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    CASES[f"line: {name}"] = Case(lambda good: {"lines": said, **more}, code)


STAGE = {"stage": "accuracy", "done": 1, "total": 2}
lines("a stage that is a number", "EV833", {**STAGE, "stage": 7})
lines("a stage with escapes", "EV833", {**STAGE, "stage": ESC})
lines("a stage with markup", "EV833", {**STAGE, "stage": "[bold red]x[/]"})
lines("a stage of 10,000 letters", "EV833", {**STAGE, "stage": "x" * 10_000})
lines("more done than there is", "EV833", {**STAGE, "done": 3})
lines("less than nothing done", "EV833", {**STAGE, "done": -1})
lines("a total beyond counting", "EV833", {**STAGE, "total": 10**30})
lines("a total that is no number", "EV833", {**STAGE, "total": float("nan")})
lines("no total", "EV833", {"stage": "accuracy", "done": 1})
lines("deep", "", DEEP)
ERROR = {"class": "DeviceError", "code": "EV703", "what": "No."}
lines("an error of Python's", "EV833", {"error": {**ERROR, "class": "SystemExit"}}, status=7)
lines("a gate's error", "EV833", {"error": {**ERROR, "class": "AccuracyGateError"}}, status=5)
lines("a long code", "EV833", {"error": {**ERROR, "code": "EV70311"}}, status=7)
lines("a code with escapes", "EV833", {"error": {**ERROR, "code": ESC}}, status=7)
lines("no code", "EV833", {"error": {"class": "DeviceError", "what": "No."}}, status=7)
lines("words in a list", "EV833", {"error": {**ERROR, "what": ["No."]}}, status=7)
lines("an error that is a word", "EV833", {"error": "no"}, status=7)
lines("a megabyte of escapes", "EV703", {"error": {**ERROR, "why": ESC * 50_000}}, status=7)
lines("a failure with escapes", "EV820", status=1, errors=ESC * 1000)
lines("killed", "EV819", status=-9)
lines("a status beyond", "EV833", status=70_000)
lines("a status in words", "EV833", status="fine")
lines("errors that are a number", "EV833", status=1, errors=5)
LINE = {"reply": "line", "text": "x", "offset": 5}
answers("start", "a line twice", "EV833", {"say": LINE}, {"say": LINE})
answers("start", "lines that go back", "EV833", {"say": LINE}, {"say": {**LINE, "offset": 1}})
answers("start", "a negative offset", "EV833", {"say": {**LINE, "offset": -5}})
answers("start", "no end", "EV833", {"say": LINE})
JUNK = b"".join(b'@edgevit {"reply":"alive"}' + b" " * (1 << 20) + b"\n" for _ in range(3))
answers("start", "300 MB of being alive", "EV834", raw(JUNK, times=100))

FILE = {"reply": "file", "size": 3, "sha256": "0" * 64}
answers("send", "another hash", "EV821", {"say": FILE}, raw("abc"))
answers("send", "too little", "EV815", {"say": FILE}, raw("a"))
answers("send", "half, then nothing", "EV835", {"say": FILE}, raw("a"), {"sleep": 60})
answers("send", "a negative size", "EV833", {"say": {**FILE, "size": -1}})
answers("send", "an exabyte", "EV834", {"say": {**FILE, "size": 10**18}})
answers("send", "no hash", "EV833", marked('{"reply": "file", "size": 3}'))


def measured(name: str, code: str, *keys: Any, value: Any) -> None:
    """Measurements with another value at a path; a function makes it from the honest one."""

    def make(good: dict[str, Any]) -> dict[str, Any]:
        content = json.loads(good["measurements"])
        honest = content
        for key in keys:
            honest = honest.get(key) if isinstance(honest, dict) else honest[key]
        new = value(deepcopy(honest)) if callable(value) else value
        put_at(content, keys, new)
        return {"measurements": json.dumps(content)}

    CASES[f"measured: {name}"] = Case(make, code)


def answered(name: str, code: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Both engines' answers changed alike, so that they still fit each other."""

    def make(good: dict[str, Any]) -> dict[str, Any]:
        content = json.loads(good["measurements"])
        for engine in ("engine", "fp32"):
            change(content[engine])
        return {"measurements": json.dumps(content)}

    CASES[f"answers: {name}"] = Case(make, code)


def times(count: int) -> Callable[[dict[str, Any]], object]:
    return lambda one: one.update(top5=one["top5"] * count, labels=one["labels"] * count)


def right(one: dict[str, Any]) -> None:
    one["labels"] = [row[0] for row in one["top5"]]


answered("a hundred times as many", "EV836", times(100))
answered("none", "EV836", times(0))
answered("one too few", "EV836", lambda one: (one["top5"].pop(), one["labels"].pop()))
answered("labels that fit", "EV836", right)
answered("labels in another order", "EV836", lambda one: one["labels"].reverse())
answered("a label beyond", "EV836", lambda one: put_at(one, ("labels", 0), 7))
answered("a label that is a word", "EV833", lambda one: put_at(one, ("labels", 0), "cat"))
answered("a class beyond", "EV836", lambda one: put_at(one, ("top5", 0, 0), 7))
answered("a negative class", "EV833", lambda one: put_at(one, ("top5", 0, 0), -5))
answered("a class twice", "EV836", lambda one: put_at(one, ("top5", 0), [1, 1, 2, 3, 4]))
answered("three classes", "EV836", lambda one: put_at(one, ("top5",), [[1, 2, 3]] * 40))
answered("rows of different length", "EV836", lambda one: one["top5"][3].pop())
answered("half a class", "EV833", lambda one: put_at(one, ("top5", 0, 0), 0.5))
answered("no labels", "EV833", lambda one: one.pop("labels"))
case("measured: nothing", "EV833", measurements="")
case("measured: a list", "EV833", measurements="[]")
case("measured: not UTF-8", "EV833", measurements='{"schema_version": 1, "warnings": ["\xff"]}')
case("measured: deep", "EV833", measurements='{"schema_version": 1, "build": ' + DEEP)
case("measured: 16 MB of lists", "EV833", measurements="[" + "[]," * 5_000_000 + "[]]")
measured("of another version", "EV833", "schema_version", value=2)
measured("no fp32", "EV836", "fp32", value=None)
measured("fp32 of other labels", "EV836", "fp32", "labels", value=lambda labels: labels[::-1])
measured("one more key", "EV833", "shell", value="sh")
measured("agreement of 1000 %", "EV833", "self_check", "agreement_percent", value=1000)
measured("agreement that is no number", "EV833", "self_check", "agreement_percent",
         value=float("nan"))  # fmt: skip
measured("an infinite error", "EV833", "self_check", "max_error", value=float("inf"))
measured("no self-check", "EV833", "self_check", value=None)
measured("other golden images", "EV836", "self_check", "num_images", value=99)
LATENCY = "latency_ms"
measured("a latency that is no number", "EV833", LATENCY, "engine", 0, value=float("nan"))
measured("a negative latency", "EV833", LATENCY, "engine", 0, value=-1)
measured("no time at all", "EV836", LATENCY, "engine", 0, value=0)
measured("a latency of 10^300 ms", "EV833", LATENCY, "engine", 0, value=1e300)
measured("latency of an unknown engine", "EV836", LATENCY, "gpu", value=[1.0] * 5)
measured("no latency", "EV836", LATENCY, value={})
measured("empty latency", "EV836", LATENCY, value={"engine": [], "fp32": []})
measured("other numbers of rounds", "EV836", LATENCY, "engine", value=[1.0, 2.0])
measured("latency in words", "EV833", LATENCY, value="fast")
measured("another batch", "EV836", "latency_conditions", "batch", value=64)
measured("other rounds", "EV836", "latency_conditions", "rounds", value=1)
measured("negative memory", "EV833", "peak_memory_bytes", "engine", value=-1)
measured("memory of an unknown engine", "EV836", "peak_memory_bytes", "gpu", value=1)
measured("images left out", "EV836", "skipped_images", value=["../../etc/passwd"])
measured("warnings that are numbers", "EV833", "warnings", value=[1])
measured("warnings with escapes", "", "warnings", value=[ESC])
measured("a warning of a megabyte", "EV833", "warnings", value=["x" * (1 << 20)])
measured("an unknown variant", "EV836", "engine_used", "variant", value="fp7")
measured("an engine that stands in", "EV836", "engine_used", "stands_in", value=True)
measured("standing in, in words", "EV833", "engine_used", "stands_in", value="no")
measured("an engine with escapes", "", "engine_used", "name", value=ESC)
measured("telemetry in words", "EV833", "telemetry", value="all well")
measured("telemetry without keys", "EV833", "telemetry", value={"valid": False})
BUILD = {"kept": "fp7", "reason": "", "fp16_reasons": [], "rows": [], "telemetry": None}
measured("a build of another variant", "EV836", "build", value={**BUILD, "layers": []})
measured("a build without layers", "EV833", "build", value=BUILD)
measured("rows that are numbers", "EV833", "build", value={**BUILD, "layers": [], "rows": [1]})
measured("another bundle", "EV836", "of", "bundle_sha256", value="0" * 64)
measured("other images", "EV836", "of", "images_sha256", value="0" * 64)
measured("of nothing", "EV833", "of", value={})
measured("no machine", "EV833", "machine", value=None)
measured("no task", "EV836", "task", value=None)
measured("a task in words", "EV833", "task", value="classify")
measured("another task", "EV836", "task", "name", value="embed")
measured("a task on other images", "EV836", "task", "num_images", value=1)
measured("outputs that the model lacks", "EV836", "task", "outputs", value={})
measured("a cosine of 2", "EV833", "task", "outputs", "logits", "cosine", value=2)
measured("an output without numbers", "EV833", "task", "outputs", "logits", value={})
measured("a row of the task that is text", "EV833", "task", "metrics", value=["good"])
measured("golden outputs of a classifier", "EV836", "self_check", "outputs", value={})
measured("a Python with escapes", "", "machine", "python", value=ESC)
