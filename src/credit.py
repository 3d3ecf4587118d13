"""How good is a credit? Any composition, held against forks of the outcome without training: forks that ship with the
project, or those of a run or policy of one's own. Takes the overrides of train.py."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from a2tgpo.rollouts.trajectory import Split
from a2tgpo.system.signals import ending_on_signals
from error_lines import one_line_errors
from launch import CONFIGS, LIKE, launch, prepare_process, quiet_libraries, require_settings
from run_directories import CONFIG

if TYPE_CHECKING:
    from a2tgpo.method.method import Method
    from a2tgpo.oracle.forked import Forked

NEEDED = ("seed", "threads", "questions", "samples", "continuations", "budget", "batch_prompts", "model.method")
"""What nothing can be judged without, whatever `~` took away."""
RUN = "run="

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="credit")
def main(config: DictConfig) -> None:
    """One composition."""
    credit(config)


def credit(config: DictConfig) -> None:
    """Read or play the forks, judge the credit and the controls, print the tables and leave them with a figure."""
    with one_line_errors():
        require_settings(config, NEEDED, splits=() if config.frozen or config.traces else ("train",))
        # here, because they take seconds: what is wrong with the configuration is said before
        from a2tgpo.oracle.picture import draw
        from a2tgpo.oracle.report import as_json, judge_all, markdown, print_reports
        from a2tgpo.oracle.store import write_forks
        from a2tgpo.system.files import whole_file, write_json
        from a2tgpo.system.process import configure_process

        quiet_libraries()
        configure_process(config.threads, keep_memory=True)
        method = instantiate(config.model.method, _convert_="all")
        directory = Path(config.paths.output_dir)
        if config.traces is not None:
            compare(Path(config.traces), method, directory)
            return
        forked = kept(Path(config.frozen)) if config.frozen else {_name(config): fork(config)}
        if config.save is not None:
            for one in forked.values():
                write_forks(Path(config.save), one)
        reports = {name: judge_all(one, {_composition(): method}, config.batch_prompts) for name, one in forked.items()}
        write_json(directory / "credit.json", as_json(reports))
        for name, text in {"credit.md": markdown(reports), "credit.svg": draw(reports)}.items():
            with whole_file(directory / name) as file:
                file.write(text)
        lines = leave_lines(config, forked) if config.run is not None and not config.frozen else None
    print_reports(reports, Console())
    print(f"credit.json, credit.md, credit.svg: {directory}")
    if lines is not None:
        print(f"each turn beside the forks: {lines}; python src/view.py {config.run} shows them")


def leave_lines(config: DictConfig, forked: "Mapping[str, Forked]") -> Path:
    """The forked episodes in the directory of their run, with the credit that it trains with, for its page."""
    from a2tgpo.oracle.judge import Judge
    from a2tgpo.oracle.lines import write_lines
    from a2tgpo.policies.checkpoint import iterations_in

    run = Path(config.run)
    own = instantiate(OmegaConf.load(run / CONFIG).model.method, _convert_="all")
    (one,) = forked.values()
    return write_lines(run, iterations_in(Path(config.ckpt_path)), Judge(one, config.batch_prompts), own)


def compare(traces: Path, method: "Method", directory: Path) -> None:
    """Hold the credit and the controls against each other on the rollouts in `traces`; no forks are needed."""
    from a2tgpo.oracle.report import as_json, markdown, print_reports
    from a2tgpo.system.files import whole_file, write_json
    from a2tgpo.traces.agreement import agreement
    from a2tgpo.traces.from_run import read_traces

    reports = {traces.name: agreement(read_traces(traces, None), {_composition(): method})}
    write_json(directory / "credit.json", as_json(reports))
    with whole_file(directory / "credit.md") as file:
        file.write(markdown(reports))
    print_reports(reports, Console())
    print(f"credit.json, credit.md: {directory}")


def kept(path: Path) -> "dict[str, Forked]":
    """Forks by the name of their file. Raises ValueError where there are none."""
    from a2tgpo.oracle.store import read_forks

    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"frozen={path}: no file of forks in it; expected one, or frozen=null to play forks now")
    return {file.stem: read_forks(file) for file in files}


def fork(config: DictConfig) -> "Forked":
    """Forks of the policy of this configuration."""
    from a2tgpo.evaluation.evaluate import move
    from a2tgpo.oracle.forking import Forking
    from a2tgpo.policies.checkpoint import load_weights
    from a2tgpo.system.process import device_of, precision_context

    device = device_of(config.trainer.accelerator)
    data = instantiate(config.data.module, _convert_="all")
    policy = instantiate(config.model.policy, _convert_="all")
    if config.ckpt_path is not None:
        load_weights(policy, Path(config.ckpt_path))
    move(policy, device)
    tasks = data.tasks.split(Split.TRAIN)
    asked = [tasks[n] for n in range(min(config.questions, len(tasks)))]
    settings = config.model.module
    forking = Forking(data.rollout, config.samples, config.continuations, config.budget, config.seed)
    with precision_context(device, config.trainer.precision):
        return forking.run(policy, asked, tuple(settings.answer_wrapper), settings.micro_batch_tokens)


def _name(config: DictConfig) -> str:
    return Path(config.run).name if config.run else "policy"


def _composition() -> str:
    """The experiment and what else was said of the model."""
    settings = HydraConfig.get()
    said = [override for override in settings.overrides.task if override.startswith("model")]
    return " ".join([str(settings.runtime.choices.experiment), *said])


def of_run(arguments: Sequence[str]) -> list[str]:
    """The command line with what `run=RUN` stands for: the overrides of that run, its last checkpoint, forks of it."""
    runs = [argument.removeprefix(RUN) for argument in arguments if argument.startswith(RUN)]
    words = [*arguments]
    for run in runs:
        words = [f"{LIKE}{run}", f"ckpt_path={Path(run) / 'checkpoints' / 'last.ckpt'}", "frozen=null", *words]
    return words


if __name__ == "__main__":
    sys.argv[1:] = of_run(sys.argv[1:])
    with ending_on_signals():
        launch(main)
