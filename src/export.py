"""Turn a checkpoint into a plain Hugging Face folder, which transformers loads without this project.

python src/export.py logs/train/runs/<time> exported              # its best checkpoint, or its last without a best
python src/export.py logs/train/runs/<time>/checkpoints/last.ckpt exported

A LoRA run gives the merged model, in float32: the adapter on the weights of its source, as precise as they are there,
whatever they were rounded to in training. With `--adapter` it gives the adapter alone, which peft loads onto its base
model.
"""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.system.entry_points import as_called
from error_lines import one_line_errors
from launch import prepare_process, quiet_libraries, require_settings
from run_directories import CONFIG

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from a2tgpo.policies.policy import Policy


def checkpoint_of(source: Path) -> Path:
    """The checkpoint that `source`, a checkpoint or a run directory, stands for: `best.ckpt` before `last.ckpt`.

    Raises ValueError where there is none.
    """
    if source.is_file():
        return source
    for name in ("best", "last"):
        if (path := source / "checkpoints" / f"{name}.ckpt").is_file():
            return path
    raise ValueError(f"{source}: no checkpoint; expected one written by src/train.py, or its run directory")


def trained_policy(checkpoint: Path) -> "Policy":
    """The policy as the run's `config.yaml` describes it, in float32, with the weights of the checkpoint.

    Raises ValueError where the configuration is missing, cannot work, or describes another architecture.
    """
    path = checkpoint.resolve().parents[1] / CONFIG
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the checkpoint in the run directory it was written to")
    config = OmegaConf.load(path)
    require_settings(config)
    from a2tgpo.policies.checkpoint import load_weights  # here, because it takes seconds

    quiet_libraries()
    if "dtype" in config.model.policy:
        config.model.policy.dtype = "float32"
    policy = instantiate(config.model.policy, _convert_="all")
    load_weights(policy, checkpoint)
    return policy


def exported_model(policy: "Policy", adapter: bool) -> "PreTrainedModel | PeftModel":
    """The model to write: merged, or the adapter alone. Raises ValueError where there is no adapter to write, or the
    merged model is another."""
    from peft import PeftModel

    from a2tgpo.policies.merging import merged

    if adapter and not isinstance(policy.model, PeftModel):
        raise ValueError("--adapter: expected a run with model.policy.lora; this one trained all weights")
    if adapter or not isinstance(policy.model, PeftModel):
        return policy.model
    return merged(policy.model)


def export(source: Path, output: Path, adapter: bool) -> None:
    """Write model and tokenizer to `output`, all of it or nothing.

    Raises ValueError where that is not a new or empty folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: not empty; expected a new folder")
    checkpoint = checkpoint_of(source)
    policy = trained_policy(checkpoint)
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
    exported_model(policy, adapter).save_pretrained(part)
    policy.tokenizer.save_pretrained(part)
    part.replace(output)
    print(f"wrote {checkpoint} to {output}")


if __name__ == "__main__":
    prepare_process()
    parser = argparse.ArgumentParser(
        prog=as_called("python src/export.py"),
        description=as_called(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="RUN_DIR_OR_CKPT")
    parser.add_argument("output", type=Path)
    parser.add_argument("--adapter", action="store_true", help="write the adapter alone")
    arguments = parser.parse_args()
    with one_line_errors():
        export(arguments.source, arguments.output, arguments.adapter)
