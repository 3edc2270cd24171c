"""Puts conf/ into the wheel, as zero/conf; pyproject.toml says everything else."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConf(build_py):
    """The packages, and conf/ inside `zero`. An editable install reads conf/ where it stands."""

    def run(self) -> None:
        if self.editable_mode:
            return super().run()
        built = Path(self.build_lib).resolve()
        if built == Path.cwd() or built in Path.cwd().parents:
            raise SystemExit(f"error: --build-lib={self.build_lib}: holds the sources; choose another folder")
        for name in ("analysis", "launch", "zero"):  # what an earlier build left would be in the wheel
            shutil.rmtree(built / name, ignore_errors=True)
        super().run()
        shutil.copytree("conf", built / "zero" / "conf")
        return None


setup(cmdclass={"build_py": WithConf})
