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
        shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier build left would be in the wheel
        super().run()
        shutil.copytree("conf", Path(self.build_lib) / "zero" / "conf")
        return None


setup(cmdclass={"build_py": WithConf})
