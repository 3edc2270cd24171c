"""Golden runs: a change that should not alter results must show the same numbers.

`python -m tests.integration.test_golden [NAME ...]` writes them anew; a commit that does so says why the numbers moved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import BASE, ROOT
from tests.integration.runs import reproducible, train_here, weights
from tests.test_algorithm import NAMES

GOLDEN = ROOT / "tests" / "golden" / "runs"
CELLS = {
    "drgrpo-none-nano_math": (),
    "grpo-qwen_math-nano_gsm": ("algo=grpo", "template=qwen_math", "questions=nano_gsm"),
    "drgrpo-r1-nano_countdown": ("template=r1", "questions=nano_countdown"),
    "grpo-none-nano_asdiv-updates-kl": ("algo=grpo", "questions=nano_asdiv", "updates=2", "epochs=2", "algo.beta=0.05"),
    "drgrpo-none-nano_cards_vl": (
        "model=nano_vl",
        "model.vision=trained",
        "questions=nano_cards_vl",
        "questions.rows.train=null",
        "questions.rows.heldout=null",
        "steps=10",
    ),
}
# Ten steps of every algorithm, two updates each, so that ratios leave 1; the metrics in which algorithms differ
OWN = {
    "sft": ("rollout=gold", "group_size=1", "prompts=16"),
    # under seed 0 a uniform number lies so near a boundary that last digits decide which token is drawn
    "dapo": ("seed=1",),
    "gspo": ("seed=1",),
}
CELLS |= {
    f"algo-{name}": (f"algo={name}", "steps=10", "updates=2", "evaluation.every=0", *OWN.get(name, ()))
    for name in NAMES
}
METRICS = (
    "step",
    "train/reward",
    "length/mean",
    "loss/policy",
    "loss/entropy",
    "loss/clip_fraction",
    "loss/grad_norm",
    "critic/loss",
    "critic/explained_variance",
    "critic/tokens",
)


def run(folder: Path, name: str) -> list[dict[str, float]]:
    train_here(folder, "steps=3", *CELLS[name])
    lines = reproducible(folder)
    if not name.startswith("algo-"):
        return lines
    return [{key: value for key, value in line.items() if key in METRICS} for line in lines[1:]]


@pytest.mark.parametrize("name", CELLS)
def test_numbers_are_those_written_down(name: str, tmp_path: Path) -> None:
    """Counts and shares exactly; what is summed in float32 to the accuracy that another processor's kernels allow."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    folder = tmp_path / "run"
    for line, expected in zip(run(folder, name), golden, strict=True):
        assert line.keys() == expected.keys()
        for key, value in expected.items():
            summed = key.startswith(("loss/", "mismatch/", "critic/"))
            if not key.startswith("mismatch/"):  # rounding noise around 1e-7, checked elsewhere
                assert line[key] == pytest.approx(value, rel=2e-3 if summed else 1e-9, abs=1e-6), (line["step"], key)
    if any(line.get("loss/grad_norm") for line in golden):
        assert weights(folder) != (BASE / "model.safetensors").read_bytes()
    else:
        assert not name.startswith("algo-"), "ten steps of an algorithm change the weights"


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or CELLS:
        with TemporaryDirectory() as folder:
            lines = run(Path(folder) / "run", name)
        (GOLDEN / f"{name}.json").write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")
        print(name, "written", file=sys.stderr)


if __name__ == "__main__":
    main()
