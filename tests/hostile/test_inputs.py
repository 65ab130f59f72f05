"""Odd inputs at every verb: refused in a sentence, without a traceback and without waiting."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from edgevit.cli import main
from edgevit.zoo import reference_images

LIMIT_S = 60
QUICK = ["--model", "vit_cifar10", "--method", "minmax", "--num-calib", "4"]
UNFORESEEN = {"EV244", "EV245", "EV246", "EV247", "EV248", "EV249"}


@contextmanager
def limited_time():
    """Raise in the main thread what blocks it, such as opening a pipe nobody writes to."""

    def late(_number, _frame):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def code_of(*arguments):
    """Run in this process; return the code of the refusal, None without one."""
    with limited_time():
        result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    assert "it hangs" not in result.output, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error EV")]
    assert len(lines) <= 1, result.output
    assert (result.exit_code == 0) == (not lines), result.output
    return lines[0].split()[1].rstrip(":") if lines else None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small bundle that can be validated."""
    path = tmp_path_factory.mktemp("made") / "bundle"
    assert code_of("quantize", *QUICK, "-o", path) is None
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def long_name(_place):
    return "x" * 5000


def long_path(_place):
    return "a/" * 2500


def zero_byte(_place):
    return "a\0b"


def fifo(place):
    os.mkfifo(place / "fifo")
    return place / "fifo"


def unix_socket(place):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("sock")  # stays in the folder
    return place / "sock"


def device(_place):
    return "/dev/zero"


def empty_folder(place):
    (place / "folder").mkdir()
    return place / "folder"


def circle(place):
    (place / "circle").symlink_to(place / "circle")
    return place / "circle"


ODD = [long_name, long_path, zero_byte, fifo, unix_socket, device, empty_folder, circle]
INPUTS = {
    "quantize --calib": ["quantize", *QUICK, "-o", "out", "--calib", "ODD"],
    "quantize --calib ::": ["quantize", *QUICK, "-o", "out", "--calib", "ODD::sub"],
    "quantize --weights": ["quantize", *QUICK, "-o", "out", "--weights", "ODD"],
    "quantize --recipe": ["quantize", "-o", "out", "--recipe", "ODD"],
    "quantize --model": ["quantize", *QUICK[2:], "-o", "out", "--model", "ODD"],
    "quantize --target": ["quantize", *QUICK, "-o", "out", "--target", "ODD"],
    "quantize --method": ["quantize", *QUICK[:2], "-o", "out", "--method", "ODD"],
    "sensitivity --calib": ["sensitivity", *QUICK, "-o", "out.csv", "--calib", "ODD"],
    "sensitivity --data": ["sensitivity", *QUICK, "-o", "out.csv", "--data", "ODD"],
    "sensitivity --weights": ["sensitivity", *QUICK, "-o", "out.csv", "--weights", "ODD"],
    "validate": ["validate", "ODD", "--data", "x"],
    "validate --data": ["validate", "BUNDLE", "--data", "ODD"],
    "inspect": ["inspect", "ODD"],
    "check": ["check", "ODD", "--target", "tensorrt"],
    "check inside": ["check", "ODD/graph.onnx", "--target", "tensorrt"],
    "deploy": ["deploy", "ODD", "--device", "me@nowhere.invalid", "--data", "x"],
    "deploy --data": ["deploy", "BUNDLE", "--device", "me@nowhere.invalid", "--data", "ODD"],
    "doctor --target": ["doctor", "--target", "ODD"],
    "demo --model": ["demo", "--model", "ODD"],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", INPUTS)
def test_an_odd_input_is_refused(name, odd, place, bundle_path):
    value = str(odd(place))
    words = [w.replace("ODD", value).replace("BUNDLE", str(bundle_path)) for w in INPUTS[name]]
    before = sorted(os.listdir(place))
    code = code_of(*words)
    assert code is not None
    assert code not in UNFORESEEN
    assert sorted(os.listdir(place)) == before


def closed(place):
    (place / "closed").mkdir(mode=0)
    return place / "closed" / "sub"


OUTPUTS = {
    "quantize": ["quantize", *QUICK, "-o"],
    "quantize --json": ["quantize", *QUICK, "-o", "out", "--json"],
    "sensitivity": ["sensitivity", *QUICK, "-o"],
    "sensitivity --plot": ["sensitivity", *QUICK, "-o", "out.csv", "--plot"],
    "validate": ["validate", "x", "--data", "x", "--json"],
    "demo": ["demo", "-o"],
    "demo --json": ["demo", "--json"],
    "deploy": ["deploy", "x", "--device", "me@nowhere.invalid", "--data", "x", "--json"],
    "check": ["check", "x", "--json"],
    "doctor": ["doctor", "--json"],
}


def name_with_no_room_for_a_suffix(_place):
    return "é" * 120 + ".png"


def below_a_file(place):
    (place / "file.png").touch()
    return "file.png/sub.png"


def missing_folder(_place):
    return "missing/sub.png"


UNWRITABLE = [long_name, long_path, zero_byte, name_with_no_room_for_a_suffix, below_a_file]


@pytest.mark.parametrize("odd", [*UNWRITABLE, missing_folder])
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_can_not_be_written_is_refused_before_the_work(name, odd, place):
    if odd is missing_folder and name in ("quantize", "demo"):
        return  # folders above a bundle are made
    value = odd(place)
    before = sorted(os.listdir(place))
    assert code_of(*OUTPUTS[name], value) in {"EV206", "EV223", "EV230"}
    assert sorted(os.listdir(place)) == before


def test_a_full_disk_is_refused_before_the_work(place, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    for name, words in OUTPUTS.items():
        folder = name.split()[0] in ("quantize", "demo")  # their bundle is a folder
        assert code_of(*words, "out.png") == ("EV230" if folder else "EV206")


def edgevit(*arguments, **options):
    """Run the real command."""
    command = [sys.executable, "-m", "edgevit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, **options)


def refusal(done):
    assert "Traceback" not in done.stderr
    assert done.returncode > 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error EV"))
    return line.split()[1].rstrip(":")


IN_ONE_PROCESS = """
import sys
from click.testing import CliRunner
from edgevit.cli import main
for words in eval(sys.argv[1]):
    print((CliRunner().invoke(main, words).output.splitlines() or ["-"])[0])
"""


def without_root():
    """Begin of a command to which closed folders are closed, also if root runs it."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("nothing is closed to root")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def test_closed_folders_are_refused(place, bundle_path):
    (place / "closed" / "sub").mkdir(parents=True)
    (place / "closed").chmod(0)
    inside = str(place / "closed" / "sub")
    words = {
        "EV401": [["inspect", inside], ["validate", inside, "--data", "x"]],
        "EV126": [["quantize", *QUICK, "--calib", inside, "-o", "x"]],
        "EV154": [["quantize", *QUICK, "--weights", f"{inside}/x.pth", "-o", "x"]],
        "EV210": [["quantize", "--recipe", inside, "-o", "x"]],
        "EV347": [["check", f"{inside}{name}", "--target", "tensorrt"] for name in ("", "/a.onnx")],
        "EV230": [["quantize", *QUICK, "-o", inside]],
        "EV206": [
            ["quantize", *QUICK, "-o", "out", "--json", f"{inside}/x.json"],
            ["sensitivity", *QUICK, "-o", f"{inside}/x.csv"],
        ],
    }
    wanted = [code for code, some in words.items() for _ in some]
    every = [one for some in words.values() for one in some]
    command = [*without_root(), sys.executable, "-c", IN_ONE_PROCESS, repr(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    (place / "closed").chmod(0o700)
    assert done.returncode == 0, done.stderr
    said = [line.partition(":")[0].removeprefix("error ") for line in done.stdout.splitlines()]
    assert said == wanted


@pytest.mark.parametrize(
    ("verb", "number"), [("inspect", 12), ("inspect", 5), ("check", 12), ("quantize", 7)]
)
def test_few_open_files_are_enough_or_refused(verb, number, bundle_path, tmp_path):
    words = {
        "quantize": [*QUICK, "-o", tmp_path / "out"],
        "inspect": [bundle_path],
        "check": [bundle_path, "--target", "tensorrt"],
    }
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))  # noqa: E731
    done = edgevit(verb, *words[verb], preexec_fn=limit)
    assert "Traceback" not in done.stderr
    assert done.returncode >= 0, done.stderr
    assert os.listdir(tmp_path) == (["out"] if verb == "quantize" and not done.returncode else [])


@pytest.mark.parametrize("kind", ["missing", "broken"])
@pytest.mark.parametrize("verb", ["quantize", "validate"])
def test_an_onnxruntime_that_is_missing_or_broken(kind, verb, bundle, tmp_path):
    home = tmp_path / "onnxruntime"
    home.mkdir()
    error = "ModuleNotFoundError" if kind == "missing" else "ImportError"
    said = "No module named 'onnxruntime'" if kind == "missing" else "libgomp.so.1: not there"
    (home / "__init__.py").write_text(f"raise {error}({said!r}, name='onnxruntime')\n")
    words = {
        "quantize": [*QUICK, "-o", tmp_path / "out"],
        "validate": [bundle, "--data", reference_images("test"), "--num", 20],
    }
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = edgevit(verb, *words[verb], env={**os.environ, "PYTHONPATH": paths})
    assert refusal(done) == ("EV701" if kind == "missing" else "EV838")
    assert "onnxruntime" in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("number", [65, 100000, 2**31, 2**70])
def test_threads_that_would_crash_the_engine_are_refused_in_python_too(number, bundle_path):
    from edgevit import load
    from edgevit.errors import UsageError
    from edgevit.runner.engines.onnxruntime.session import session_from_bundle
    from edgevit.runner.engines.threads import most_threads

    with pytest.raises(UsageError, match="EV227"):
        session_from_bundle(load(bundle_path), threads=max(number, most_threads() + 1))


RAISING = {
    "ValueError('odd \\x1b[2J')": ("EV249", 1),
    "RecursionError('maximum')": ("EV245", 1),
    "MemoryError()": ("EV246", 3),
    "OSError(28, 'No space left on device', '/full')": ("EV247", 3),
    "ModuleNotFoundError('no', name='timm.x')": ("EV248", 3),
    "ImportError('no', name='edgevit.x')": ("EV249", 1),
}
UNEXPECTED = """
import sys
from edgevit import api
from edgevit.cli import main
def inspect(path):
    raise {error}
api.inspect = inspect
main()
"""


@pytest.mark.parametrize("error", RAISING)
@pytest.mark.parametrize("debug", ["", "option", "variable"])
def test_what_nobody_foresaw_ends_in_one_sentence(error, debug):
    code, status = RAISING[error]
    words = ["--debug"] if debug == "option" else []
    env = {**os.environ, **({"EDGEVIT_DEBUG": "1"} if debug == "variable" else {})}
    command = [sys.executable, "-c", UNEXPECTED.format(error=error), *words, "inspect", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == status, done.stderr
    assert f"error {code}: " in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)
    assert "\x1b" not in done.stderr
    names = [line.split(":")[0].strip() for line in done.stderr.splitlines()[-3:]]
    assert names == ["where", "why", "try"]


def test_a_reader_that_goes_away_is_no_error():
    """As `edgevit methods --json - | head -1` does."""
    command = [sys.executable, "-m", "edgevit", "methods", "--json", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert b"Traceback" not in said
    assert b"Broken" not in said
    assert b"error" not in said
