"""The wheel in an environment of its own: the commands run from another folder, with its own conf/ and models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zero import paths

SOURCES = ("zero", "launch", "analysis", "conf")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
SMALL = [
    "prompts=2",
    "group_size=2",
    "sampling.max_tokens=16",
    "evaluation.every=0",
    "benchmarks.limit=4",
    "tracker=jsonl",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: the checkout gets no build/."""
    home = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, home / name)
    words = ["-m", "pip", "wheel", ".", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist"]
    done = subprocess.run([sys.executable, *words], cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next((home / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and from this environment everything but the checkout: the path file of an
    environment that is read through another one's counts for nothing."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    (own,) = home.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(own), str(wheel)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return home / "bin" / "python"


def call(python: Path, folder: Path, *words: str) -> str:
    """The output of a command that is run in a folder far from the checkout."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([python, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # a minute of processor time: three processes that import torch
def test_the_wheel_trains_and_sweeps_from_another_folder(python: Path, tmp_path: Path) -> None:
    imported = call(
        python, tmp_path, "-c", "import zero.paths as p, launch, analysis; print(p.__file__, p.CONF, launch.__file__)"
    )
    assert all(path.startswith(str(python.parents[1])) for path in imported.split()), imported
    output = call(python, tmp_path, "-m", "zero.train", "algo=drgrpo", "template=none", "steps=2", *SMALL)
    run = tmp_path / "runs"
    assert "finished: " in output and len(list(run.glob("*/model/model.safetensors"))) == 1
    sweep = ["-m", "algo=grpo", "seed=0,1", "steps=1", "hydra/launcher=local", "hydra.launcher.name=two"]
    call(python, tmp_path, "-m", "zero.train", *sweep, *SMALL)
    assert len(list((run / "sweeps" / "two").glob("*/result.json"))) == 2
    assert (run / "sweeps" / "two" / "code" / "zero" / "conf" / "train.yaml").is_file()
    assert "2 finished" in call(python, tmp_path, "-m", "launch.status", "runs/sweeps/two")


def test_the_wheel_holds_conf_models_and_metadata(wheel: Path, python: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"zero", "launch", "analysis"}
    expected = {f"zero/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    expected |= {f"zero/nano/{name}/model.safetensors" for name in ("base", "plain", "domain", "search")}
    expected |= {"launch/places/cell.sh", "zero/questions/fingerprints.txt", "zero/cpu/kernels/decode.cpp"}
    assert expected <= names, expected - names
    output = call(python, tmp_path, "-m", "zero.train", "--version")
    assert output.startswith(f"r1-zero-suite {paths.version()} (Hydra ")
    advice = call(python, tmp_path, "-c", "from zero.paths import pip_install; print(pip_install('vllm'))")
    assert advice.startswith("pip install 'vllm==")
    assert paths.pip_install("vllm") == "pip install -e '.[vllm]'"
