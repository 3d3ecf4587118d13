"""Beliefs of policies of preset=credit held against Bayes, state by state: a table and a picture.

    python scripts/calibration.py                                         # the policy that ships
    python scripts/calibration.py --checkpoints RUN/checkpoints/last.ckpt

Each policy plays the same questions of the validation worlds, sampled. A belief is the probability of the whole
accepted answer, where signals go by that of one of its tokens.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import correlation, mean

import matplotlib
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from a2tgpo.embedded.questions import NARROWING
from a2tgpo.evaluation.calibration import BeliefState, belief_states, calibration_gap
from a2tgpo.policies.checkpoint import load_weights
from a2tgpo.rollouts.trajectory import Split
from launch import CONFIGS, prepare_process

matplotlib.use("Agg")
import matplotlib.pyplot as plt

prepare_process()

ROOT = Path(__file__).resolve().parents[1]
START = "start"
N_BINS = 10


def states_of(checkpoint: Path | None, questions: int) -> list[BeliefState]:
    """What the policy of a checkpoint, or the one that ships, believes along sampled episodes."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("train", ["preset=credit", "experiment=a2tgpo"])
    data, policy = (instantiate(part, _convert_="all") for part in (config.data.module, config.model.policy))
    if checkpoint is not None:
        load_weights(policy, checkpoint)
    policy.model.eval()
    tasks, settings = data.tasks.split(Split.VALIDATION), config.model.module
    prompts = [(n, tasks[n]) for n in range(questions)]
    played = data.rollout.run(policy, prompts, 1, (config.seed,), greedy=False)
    wrapper = tuple(settings.answer_wrapper)
    return belief_states(policy, played, tasks.size, wrapper, settings.micro_batch_tokens)


def rows(name: str, states: Sequence[BeliefState]) -> list[str]:
    """A row of Markdown for each family of questions and number of results seen, and one for all."""
    groups = {(family, n): [] for family in ("chains", "narrowing") for n in range(1 + max(s.results for s in states))}
    for state in states:
        groups["narrowing" if state.kind == NARROWING else "chains", state.results].append(state)
    named = {f"{family}, {n} results": group for (family, n), group in groups.items() if len(group) > 1}
    lines = []
    for group, members in (named | {"all": list(states)}).items():
        beliefs, bayes = [s.belief for s in members], [s.posterior for s in members]
        figures = [mean(beliefs), mean(bayes), calibration_gap(members)]
        varied = len(set(bayes)) > 1 and len(set(beliefs)) > 1
        cells = [f"{f:.3f}" for f in figures] + [f"{correlation(beliefs, bayes):.2f}" if varied else "–"]
        lines.append(" | ".join([f"| {name}", group, str(len(members)), *cells]) + " |")
    return lines


def draw(found: dict[str, list[BeliefState]], path: Path) -> None:
    """A panel a policy: the mean posterior of the states in each tenth of belief."""
    size = (4 * len(found), 4)
    figure, panels = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (name, states) in zip(panels[0], found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for family in ("chains", "narrowing"):
            bins: dict[int, list[BeliefState]] = {}
            for state in states:
                if (state.kind == NARROWING) == (family == "narrowing"):
                    bins.setdefault(min(int(state.belief * N_BINS), N_BINS - 1), []).append(state)
            points = [(mean(s.belief for s in b), mean(s.posterior for s in b), len(b)) for b in bins.values()]
            x, y, n = zip(*sorted(points), strict=True)
            axes.scatter(x, y, [10 + 100 * count / len(states) for count in n], label=family, alpha=0.7)
        axes.set(xlabel="belief of the policy", title=name, xlim=(0, 1), ylim=(0, 1))
        axes.legend()
    panels[0][0].set(ylabel="posterior (Bayes)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[], help="of runs of preset=credit")
    parser.add_argument("--names", nargs="*", help="of the checkpoints, in the table and picture")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "evidence" / "calibration.png")
    arguments = parser.parse_args()
    names = arguments.names or [str(path) for path in arguments.checkpoints]
    named = zip([START, *names], [None, *arguments.checkpoints], strict=True)
    found = {name: states_of(checkpoint, arguments.questions) for name, checkpoint in named}
    print("| policy | states | n | belief | posterior | \\|belief − posterior\\| | correlation |\n" + "|---" * 7 + "|")
    print("\n".join(line for name, states in found.items() for line in rows(name, states)))
    draw(found, arguments.picture)


if __name__ == "__main__":
    main()
