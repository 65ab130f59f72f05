"""The rooms stand where they should, and nothing flows backwards."""

import re
import subprocess
import sys

import house

from edgevit.deploy.thin_runner import thin_runner_files

PACKAGE = house.ROOT / "edgevit"


def test_nothing_stands_on_top_but_the_ground_floor_and_the_door():
    found = {path.stem for path in PACKAGE.glob("*.py")}
    assert found <= {*house.FLOOR, *house.DOOR}


def test_every_folder_is_a_room():
    found = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert found - {"assets"} == set(house.ROOMS)


def test_tests_stand_in_the_folders_of_what_they_test():
    """Two more: what hostile parties send, and the scripts of the benchmarks."""
    home = house.ROOT / "tests"
    found = {path.parent.relative_to(home) for path in home.rglob("test_*.py")}
    strange = {folder for folder in found if not (PACKAGE / folder).is_dir()}
    assert {str(folder) for folder in strange} == {"hostile", "benchmarks"}
    names = [path.name for path in home.rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest imports them by their names alone"


def test_no_import_runs_against_the_flow():
    assert house.against_the_flow(house.imports()) == []


def test_no_modules_import_each_other_in_a_circle():
    assert house.circles(house.imports()) == []


def test_the_count_sees_what_it_should(tmp_path):
    """Imports in functions and for type checkers count, in every spelling."""
    files = {
        "data/a.py": "def f():\n    from edgevit.verbs import b\n",
        "verbs/b.py": "if TYPE_CHECKING:\n    import edgevit.data.a\n",
        "targets/c.py": "from edgevit.calibration.d import x\n",
        "calibration/d.py": "x = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "edgevit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = house.imports(tmp_path)
    assert house.circles(found) == [["edgevit.data.a", "edgevit.verbs.b"]]
    assert sorted(house.against_the_flow(found)) == [
        ("edgevit.data.a", "edgevit.verbs.b"),
        ("edgevit.targets.c", "edgevit.calibration.d"),
    ]


def test_a_board_gets_whole_rooms_and_few_files_beside_them():
    shipped = {name.split("/", 1)[1] for name in thin_runner_files()}
    beside = {name for name in shipped if not name.startswith(("bundle/", "runner/"))}
    assert beside == {
        "__init__.py",
        "errors.py",
        "version.py",
        "data/__init__.py",
        "data/normalizing.py",
        "data/paths.py",
        "data/tasks.py",
        "scratch.py",
    }
    for room in ("bundle", "runner"):
        files = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / room).rglob("*.py")}
        assert files <= shipped


def test_it_prints_its_counts():
    command = [sys.executable, str(house.ROOT / "tests" / "house.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "0 imports against the flow, 0 circles" in done.stdout, done.stderr


def test_the_largest_number_of_float16_is_written_once():
    files = [path for path in PACKAGE.rglob("*.py") if "65504" in path.read_text("utf-8")]
    assert [path.name for path in files] == ["fp16_range.py"]


def test_what_a_board_gets_is_checked_for_its_python():
    """pyproject's rules for Python 3.8 hold for the very files that are sent."""
    project = (house.ROOT / "pyproject.toml").read_text()
    patterns = re.findall(r'^"(edgevit/[^"]+)" = "py38"$', project, re.M)
    old = {path for pattern in patterns for one in braces(pattern) for path in matching(one)}
    agent = {path for path in old if path.startswith("edgevit/deploy/agent/")}
    assert agent
    assert old - agent == set(thin_runner_files())


def braces(pattern):
    """Return the patterns that `a{b,c}d` stands for."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [found[1] + word + found[3] for word in found[2].split(",")] if found else [pattern]


def matching(pattern):
    """Return the files that ruff means: `**` reaches into folders too."""
    paths = house.ROOT.glob(pattern.replace("**.py", "**/*.py"))
    return {path.relative_to(house.ROOT).as_posix() for path in paths}


def test_no_file_is_a_link_to_somewhere_else():
    """A link made by hand has to stay out of what is handed on."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=house.ROOT, capture_output=True, text=True
    )
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []
