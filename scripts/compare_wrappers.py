"""What the wrapper of an answer and the unit of a gain do to the turn signal of a model: a table.

    python scripts/compare_wrappers.py experiment=a2tgpo_small data=facts model.policy.path=MODEL questions=60

Takes the overrides of src/check.py. Forces the reference calls of training questions, and those of other questions, and
scores the answer in every state inside the wrappers of all dialects, with and without what stands around the tags; with
`--own`, inside the run's own alone. Worked episodes are written in the run's own wrapper, so with them only `--own` is
a fair comparison.
"""

import argparse
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.check.beliefs import GAINS, Wrapper, WrapperBeliefs, score_wrappers, wrappers
from a2tgpo.check.forced import Pairs, force
from a2tgpo.rollouts.trajectory import Split
from a2tgpo.scoring.float32 import computes_in_float32
from a2tgpo.system.process import configure_process, precision_context
from a2tgpo.training.module import A2TGPOModule

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))
from error_lines import one_line_errors
from launch import CONFIGS, prepare_process, quiet_libraries, require_settings

NEEDED = ("questions", "data.module", "model.module")
"""What no table can do without, whatever `~` took away."""
USED = ("seed", "threads", "questions", "paths", "data", "model", "trainer")
"""Of the configuration; the rest speaks of a run directory, and there is none."""
FURTHER = [("<answer>\n", "\n</answer>"), ("<answer>The answer is \\boxed{", "}</answer>")]
MEASURED = 8
"""Questions on which the rounding of gains is measured."""
COLUMNS = ["wrapper", "one token", "before", "own calls", "others'", "nats, own", "nats, others'"]
COLUMNS += ["ranked", *(f"{figure}, {gain}" for figure in ("pairs", "live") for gain in GAINS)]


def of_all_dialects(own: Wrapper) -> list[Wrapper]:
    """The run's own wrapper, those of the shipped dialects, what `wrappers` makes of each, and two more; of several
    that begin alike the first."""
    files = sorted((Path(CONFIGS) / "data" / "dialect").glob("*.yaml"))
    shipped = [tuple(OmegaConf.load(file).answer_wrapper) for file in files]
    first: dict[str, Wrapper] = {}
    for wrapper in [*(some for dialect in [own, *shipped] for some in wrappers(dialect)), *FURTHER]:
        first.setdefault(wrapper[0], wrapper)
    return [*first.values()]


def measure(overrides: list[str], own: bool) -> list[WrapperBeliefs]:
    """Beliefs in the answers of the first `questions` of the training split."""
    prepare_process()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        config = compose("check", overrides=["threads=1", "paths.output_dir=.", *overrides])
    config = OmegaConf.masked_copy(config, USED)
    require_settings(config, NEEDED, splits=("train",))
    quiet_libraries()
    configure_process(config.threads, keep_memory=True)
    data, learner = (instantiate(part.module, _convert_="all") for part in (config.data, config.model))
    tasks = data.tasks.split(Split.TRAIN)
    tasks = [tasks[n] for n in range(min(config.questions, len(tasks)))]
    with precision_context("cpu", config.trainer.precision):
        pairs = force(data.rollout, learner.policy, tasks)
        if pairs is None:
            raise ValueError(
                "data.tasks.train: fewer than two questions with reference calls that can be played; expected some, "
                "and one tool"
            )
        made = [learner.answer_wrapper] if own else of_all_dialects(learner.answer_wrapper)
        return score_wrappers(learner.policy, pairs, made, learner.micro_batch_tokens, rounding(learner, pairs))


def rounding(learner: A2TGPOModule, pairs: Pairs) -> float:
    """Rounding error (nats) of a gain, measured on a few of the episodes."""
    if computes_in_float32(learner.policy):
        return 0.0
    few = [*pairs.own[:MEASURED], *pairs.foreign[:MEASURED]]
    learner.prepare(few, [range(len(few))], 0)
    return learner.log_gain_noise or 0.0


def table(found: list[WrapperBeliefs]) -> str:
    """In Markdown: a row a wrapper."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for beliefs in found:
        row = beliefs.by_length()["all"]
        one = sum(length == 1 for length in beliefs.lengths) / len(beliefs.lengths)
        cells = [f"`{'…'.join(beliefs.wrapper)}`".replace("\n", "\\n"), f"{one:.0%}"]
        cells += [f"{row[f'belief_{state}']:.4f}" for state in ("before", "own", "foreign")]
        cells += [f"{row[f'log_gain_{calls}']:+.2f}" for calls in ("own", "foreign")]
        cells += [f"{row['ranked']:.2f}"]
        cells += [f"{row[f'{figure}_{gain}']:.2f}" for figure in ("pairs", "live") for gain in GAINS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--own", action="store_true", help="the run's own wrapper alone")
    arguments = parser.parse_intermixed_args()
    with one_line_errors():
        found = measure(arguments.overrides, arguments.own)
    print(f"{len(found[0].lengths)} questions, rounding of a gain {found[0].observed.log_gain_noise:.2g} nats\n")
    print(table(found))


if __name__ == "__main__":
    main()
