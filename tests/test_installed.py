"""What a wheel installs, in an environment of its own and far from the checkout: library, commands, configs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.tiny_runs import ROOT

pytestmark = pytest.mark.slow

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
SIZES = (
    "trainer.max_epochs=1",
    "callbacks.rollout_files.every=1",
    *(f"data.module.{name}=4" for name in ("prompts_per_iteration", "group_size", "val_tasks", "test_tasks")),
    "data.module.mini_batch_prompts=2",
)
EXPERIMENT = """# @package _global_
defaults: [a2tgpo, {override /model/clipper: fixed}]
seed: 7
"""


def execute(command, cwd, **environment):
    done = subprocess.run(command, cwd=cwd, env=environment or None, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, source, output):
    """A distribution of the project in `source`, as pip has it built."""
    name = execute([sys.executable, "-c", BUILD, f"build_{kind}", str(output)], source).splitlines()[-1]
    return output / name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built out of the source distribution, which is built out of a copy that building may write to."""
    place = tmp_path_factory.mktemp("build")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
    for folder in ("src", "configs"):
        shutil.copytree(ROOT / folder, place / "copy" / folder, ignore=left_out)
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, place / "copy")
    with tarfile.open(build("sdist", place / "copy", place)) as archive:
        archive.extractall(place, filter="data")
        (root,) = {Path(name).parts[0] for name in archive.getnames()}
    return build("wheel", place / root, place)


@pytest.fixture(scope="module")
def bin_dir(wheel, tmp_path_factory):
    """Of an environment that holds this wheel, and finds what it depends on where the tests find it."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    execute([*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)], place)
    return place / "bin"


@pytest.fixture
def call(bin_dir, tmp_path):
    """`call("a2tgpo-train", …)`: what it prints, called in an empty directory; the checkout is out of sight."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "PATH")}

    def in_empty_directory(name, *arguments):
        return execute([bin_dir / name, *arguments], tmp_path, **kept, OMP_NUM_THREADS="1")

    return in_empty_directory


def test_the_wheel_holds_the_package_the_entry_points_and_the_configs(wheel):
    package, configs = ROOT / "src" / "a2tgpo", ROOT / "configs"
    files = {f"a2tgpo/{path.relative_to(package)}" for path in package.rglob("*.*") if path.suffix != ".pyc"}
    files |= {f"a2tgpo/commands/{path.name}" for path in (ROOT / "src").glob("*.py")}
    files |= {f"a2tgpo/configs/{path.relative_to(configs)}" for path in configs.rglob("*.yaml")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {name for name in files if not name.startswith("a2tgpo/configs/local/")}


def test_the_library_needs_neither_lightning_nor_hydra(call):
    imports = "a2tgpo.method.method, a2tgpo.scoring.score, a2tgpo.viewer.page"
    code = f"import sys, {imports}; print(a2tgpo.__file__, *sys.modules)"
    place, *modules = call("python", "-c", code).split()
    assert "site-packages" in place and not {"lightning", "hydra", "omegaconf"} & {*modules}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_entry_point_is_a_script(call, script):
    assert {*SCRIPTS.values()} == {"a2tgpo.system.entry_points:main"}
    assert script.removeprefix("a2tgpo-").replace("-", "_") in call(script, "--help").replace("-", "_")


def test_a_run_stays_in_the_current_directory_and_is_read_by_the_other_scripts(call, tmp_path):
    said = call("a2tgpo-train", "experiment=a2tgpo", "trainer=ddp_cpu", *SIZES)
    (run,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert {path.name for path in tmp_path.iterdir()} == {"logs"} and (run / "checkpoints" / "last.ckpt").is_file()
    next_command = re.search(r"^next: .*? (a2tgpo-eval .*)$", said, re.MULTILINE)[1]
    assert '"success/low"' in call(*shlex.split(next_command), "questions=2")
    page = run / "page.html"
    assert call("a2tgpo-view", str(run), "--output", str(page)).endswith(f": {page}\n")
    assert page.read_bytes() == (run / "view.html").read_bytes()


@pytest.mark.parametrize("found", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_configs_of_ones_own_are_found(call, tmp_path, found):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    said = call("a2tgpo-train", found.format(tmp_path / "mine"), "experiment=mine", "--cfg", "job")
    assert "seed: 7" in said and "a2tgpo.method.clippers.fixed." in said
