"""The arithmetic of the real model, printed after a run with a toy model."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, Trainer
from peft import LoraConfig
from rich.console import Console
from rich.table import Table

from a2tgpo.callbacks.protocols import ObservedLearner
from a2tgpo.dry_run.footprint import GIB, USABLE, Hardware, Plan, memory, peak, seconds, tokens
from a2tgpo.dry_run.toy_models import parameter_counts, real_config
from a2tgpo.policies.pretrained import checkpoints_activations
from a2tgpo.training.optimization import LowBit

COMPUTE_BYTES = 2
"""The trainers for GPUs compute in bf16."""


class SizingReport(Callback):
    """Prints memory of a device, tokens and a lower bound of the time of one iteration at the real size."""

    def __init__(
        self,
        path: str | None,
        architecture: Mapping[str, Any] | None,
        hardware: Hardware,
        lora: LoraConfig | None,
        gradient_checkpointing: bool | str,
        replicas: int | None,
    ) -> None:
        self.shards = 1 if replicas is None else hardware.devices // replicas
        self.real, self.hardware, self.lora = real_config(path, architecture), hardware, lora
        self.parameters, self.trained = parameter_counts(self.real, lora)
        self.gradient_checkpointing = checkpoints_activations(gradient_checkpointing, self.parameters)

    def on_fit_end(self, trainer: Trainer, pl_module: ObservedLearner) -> None:
        """Print the tables."""
        if trainer.is_global_zero:
            coded = isinstance(trainer.optimizers[0], LowBit)
            self.print_report(self.plan(trainer.datamodule.real, pl_module, coded), Console())

    def plan(self, real: Mapping[str, Any], learner: ObservedLearner, coded_moments: bool) -> Plan:
        """The counts of the real run: `real` are the settings of its data module."""
        return Plan(
            prompts=real["prompts_per_iteration"],
            group_size=real["group_size"],
            prompt_tokens=real["max_prompt_tokens"],
            response_tokens=real["max_response_tokens"],
            max_sessions=real["max_sessions"],
            micro_batch_tokens=learner.micro_batch_tokens,
            models_scored=1 if learner.reference is None else 2,
            reference_copy=learner.reference is not None and self.lora is None,
            weight_bytes=next(p.element_size() for p in learner.model.parameters()),
            compute_bytes=COMPUTE_BYTES,
            gradient_checkpointing=self.gradient_checkpointing,
            shards=self.shards,
            coded_moments=coded_moments,
        )

    def print_report(self, plan: Plan, console: Console) -> None:
        """Memory first, then what an iteration has to do."""
        parameters, trained = self.parameters, self.trained
        used = memory(self.real, parameters, trained, plan)
        hardware = self.hardware
        table = Table(
            title=f"{parameters / 1e9:.2f} B parameters, {trained / 1e9:.3f} B trained, on one {hardware.name}"
        )
        table.add_column("memory")
        table.add_column("GiB", justify="right")
        activations = "computed again" if plan.gradient_checkpointing else "kept"
        for name, size in used.items():
            table.add_row(f"update, activations {activations}" if name == "update" else name, f"{size / GIB:.1f}")
        table.add_row(
            "peak (rollout and update do not overlap)", f"{peak(used) / GIB:.1f} of {hardware.memory_gib:.0f}"
        )
        console.print(table)
        console.print(
            "fits"
            if peak(used) <= USABLE * hardware.memory_gib * GIB
            else "does not fit: an adapter, trainer=fsdp, model/optimizer=adamw_8bit, smaller micro-batches or fewer "
            "sessions" + (", activations computed again" if not plan.gradient_checkpointing else "")
        )
        table = Table(title=f"one iteration on {hardware.devices} × {hardware.name}, episodes at their limits")
        for column in ("phase", "million tokens", "seconds at least"):
            table.add_column(column, justify="left" if column == "phase" else "right")
        spent = seconds(parameters, plan, hardware)
        for phase, count in tokens(plan).items():
            table.add_row(phase, f"{count / 1e6:.1f}", f"{spent[phase]:.0f}")
        console.print(table)
