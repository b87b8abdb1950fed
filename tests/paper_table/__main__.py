"""`python -m tests.paper_table`: makes the paper's table again, and prints it as Markdown.

Trains a base and four fine-tunes of a small Switch Transformers model, each on a task of its own,
consolidates the fine-tunes into the expert bytes of one model, and scores every fine-tune on its
own task: as it is, with the experts that the paper selects for 2, 3 and 4 of them
(arXiv 2505.06481, section 3.1 and table 2), with the plain average, and with the release.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random

from consolidation.release import Registry, ReleaseReader
from serve_app.demo import skills
from tests.paper_table.scoring import Scores, methods, scores
from tests.paper_table.training import BASE, VARIANTS, make_family

CALIBRATION_WORDS = 200
KEPT = 0.99
"""Of each variant's own score, at least."""
COMMAND = "import sys; from serve_app.cli.main import main; sys.exit(main())"


def consolidate(directory: Path, budget: float) -> ReleaseReader:
    """The release of all variants, made by the command line. Calibrated on each one's own task."""
    registry = directory / "registry"
    options = ["--family=paper", f"--registry={registry}", f"--expert-budget={budget}"]
    options.append(f"--base={directory / BASE}")
    for name in VARIANTS:
        options.append(f"--model={name}={directory / name}")
        options.append(f"--calibration={name}={calibration_file(directory, name)}")
    command = [sys.executable, "-c", COMMAND, "consolidate", *options]
    subprocess.run(command, check=True, stdout=sys.stderr)
    opened = Registry(str(registry), "paper")
    channel = opened.channel("stable")
    assert channel is not None, "a release was published, and no channel leads to it"
    return ReleaseReader(opened, channel.release)


def calibration_file(directory: Path, name: str) -> Path:
    """Questions of a variant's own task, with words that nothing is scored on."""
    random = Random(f"calibration of {name}")
    lengths = range(skills.SHORTEST, skills.LONGEST + 1)
    words = [skills.made_up_word(random, random.choice(lengths)) for _ in range(CALIBRATION_WORDS)]
    answer = skills.skill(name).answer
    pairs = [{"prompt": skills.prompt(word), "completion": answer(word)} for word in words]
    file = directory / f"{name}.jsonl"
    file.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return file


def table(own: Scores, rows: Mapping[str, tuple[float, Scores]]) -> str:
    """As Markdown: bytes in those of one model's experts, and what is kept of each score."""
    lines = [
        "| experts | bytes | " + " | ".join(VARIANTS) + " |",
        "|" + " --- |" * (2 + len(VARIANTS)),
    ]
    cells = [f"{own[name]:.3f}" for name in VARIANTS]
    lines.append(f"| own | {len(VARIANTS)} × | " + " | ".join(cells) + " |")
    for title, (size, found) in rows.items():
        cells = [
            f"{found[name]:.3f} ({found[name] / own[name]:.2f})" if name in found else "–"
            for name in VARIANTS
        ]
        lines.append(f"| {title} | {size:.2f} × | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """0 if every variant keeps 0.99 of its own score in the release."""
    parser = argparse.ArgumentParser(prog="python -m tests.paper_table")
    parser.add_argument("--directory", type=Path, help="keep models here, and use those that are")
    parser.add_argument("--budget", type=float, default=1.0, help="in the expert bytes of a model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or Path(temporary)
        if not (directory / VARIANTS[-1]).is_dir():
            make_family(directory, lambda line: print(line, file=sys.stderr))
        reader = consolidate(directory, options.budget)
        own = scores(directory, VARIANTS, None)
        one = reader.manifest.expert_bytes_before / len(VARIANTS)
        rows = {
            title: (method.expert_bytes / one, scores(directory, names, method))
            for title, (names, method) in methods(directory, reader).items()
        }
        print(table(own, rows))
        (ours,) = [found for title, (_, found) in rows.items() if title.startswith("expertpool")]
    return 0 if all(ours[name] >= KEPT * own[name] for name in VARIANTS) else 1


if __name__ == "__main__":
    sys.exit(main())
