"""Check a run before its hours are spent: what the model sees and says, whether there is something to learn from, what
it will take. Takes the overrides of train.py."""

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from a2tgpo.system.signals import ending_on_signals
from error_lines import one_line_errors
from launch import CONFIGS, launch, prepare_process, quiet_libraries, require_settings

NEEDED = ("seed", "threads", "questions", "samples", "data.module", "model.module", "trainer.max_epochs")
"""What no check can do without, whatever `~` took away."""
EXAMPLES = "data/dialect/examples"

prepare_process()


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="check")
def main(config: DictConfig) -> None:
    """One check."""
    check(config)


def check(config: DictConfig) -> None:
    """Build the parts of the run, check them, print the report and leave it as JSON."""
    with one_line_errors():
        require_settings(config, NEEDED, splits=("train",))
        import lightning  # here, because it takes seconds: what is wrong with the configuration is said before

        from a2tgpo.check.actions import Ways
        from a2tgpo.check.check import Check
        from a2tgpo.evaluation.evaluate import move
        from a2tgpo.policies.checkpoint import load_weights
        from a2tgpo.system.files import write_json
        from a2tgpo.system.process import configure_process, device_of, precision_context

        quiet_libraries()
        device = device_of(config.trainer.accelerator)
        configure_process(config.threads, keep_memory=device == "cpu")
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        data = instantiate(config.data.module, _convert_="all")
        learner = instantiate(config.model.module, _convert_="all")
        if config.ckpt_path is not None:
            load_weights(learner.policy, Path(config.ckpt_path))
        move(learner.policy, device)
        if learner.reference is not None:
            move(learner.reference, device)
        ways = Ways(_examples(config), data.rollout.max_action_tokens, data.rollout.max_response_tokens)
        precision = precision_context(device, config.trainer.precision)
        limits = (config.questions, config.samples, config.trainer.max_epochs)
        report = Check(learner, data, ways, precision, *limits).run()
        path = Path(config.paths.output_dir) / "check.json"
        write_json(path, report.as_json())
    report.print(Console())
    print(f"\n{report.verdict}: {path}")


def _examples(config: DictConfig) -> str:
    """The override that shows worked episodes; empty where some are shown already."""
    if OmegaConf.select(config, "data.dialect.examples"):
        return ""
    tools = OmegaConf.select(config, "data.environment.tools", default={})
    return f"{EXAMPLES}={'calculator' if 'calculator' in tools else 'search_qa'}"


if __name__ == "__main__":
    with ending_on_signals():
        launch(main)
