"""A²TGPO in TRL: a GRPOTrainer whose advantages and clip bounds are per turn. Written against trl 1.16.

    trainer = A2TGPOTrainer(model, reward, args, dataset, tools=[search], answer_wrapper=("<answer> ", "</answer>"))

The dataset has a column `answers` beside `prompt`. Rollouts, tools, rewards and the optimizer are TRL's; beliefs,
credit, ratio, bounds and loss are those of `method`. Text only, and not with sharded weights (FSDP, ZeRO-3): beliefs
are scored with forwards of their own.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from a2tgpo.integrations.turns import split_turns, turn_ids
from a2tgpo.method.corrections.none import NoCorrection
from a2tgpo.method.functional import k3_kl
from a2tgpo.method.method import PAPER, Method
from a2tgpo.method.protocols import ReferenceSignal
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.turns import TurnCredit
from a2tgpo.policies.cached_forward import with_way_to_read
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory
from a2tgpo.scoring.noise import log_gain_noise
from a2tgpo.scoring.score import score
from a2tgpo.system.distributed import local_rows

CREDIT = "credit/"
"""Prefix of the method's tensors among TRL's."""

REPLACED = {
    "clipper": ("epsilon", "epsilon_high", "delta"),
    "credit": ("scale_rewards", "multi_objective_aggregation"),
    "ratio": ("importance_sampling_level", "use_bias_correction_kl"),
    "surrogate": ("off_policy_mask_threshold", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy"),
    "aggregation": ("loss_type", "mask_truncated_completions", "router_aux_loss_coef"),
}
"""Options of GRPOConfig that the loss no longer reads, by the part of the method that stands in their place."""


class A2TGPOTrainer(GRPOTrainer):
    """GRPOTrainer with the credit and the loss of `method`.

    `answer_wrapper` is the text around an accepted answer at the start of an assistant message, `answer_column` the
    dataset's column of accepted answers (a list, or one text); `score_tokens` bounds a micro-batch of belief scoring.
    Raises ValueError where an option of GRPOConfig is set that the method replaces, an optimizer step would take rows
    of several generations, or beliefs cannot be scored from the model's cache.
    """

    def __init__(
        self,
        *args: Any,
        answer_wrapper: tuple[str, str],
        answer_column: str = "answers",
        method: Method = PAPER,
        score_tokens: int = 16384,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.answer_wrapper = method, answer_wrapper
        self.answer_column, self.score_tokens = answer_column, score_tokens
        self.log_gain_noise: float | None = None
        self.credit_memory: dict[str, torch.Tensor] = {}
        self._reads = "block"
        default = {field.name: field.default for field in fields(GRPOConfig)}
        for part, options in REPLACED.items():
            for option in options:
                value = getattr(self.args, option)
                if value != default[option]:
                    raise ValueError(f"{option}={value}: expected {default[option]}; method.{part} stands in its place")
        if not isinstance(method.correction, NoCorrection):
            raise ValueError(f"method.correction={method.correction}: expected none; TRL corrects for its own engine")
        if isinstance(method.signal, ReferenceSignal):
            raise ValueError(f"method.signal={method.signal}: expected one of the policy's own beliefs")
        if self._is_vlm:
            raise ValueError(f"processing_class={type(self.processing_class).__name__}: expected a text tokenizer")
        accumulated = self.args.gradient_accumulation_steps
        if self.args.steps_per_generation % accumulated:
            raise ValueError(
                f"steps_per_generation={self.args.steps_per_generation}: expected a multiple of "
                f"gradient_accumulation_steps={accumulated}, or a step lacks the weights of some rows"
            )
        if not isinstance(method.signal, NoSignal):
            try:
                self._reads = with_way_to_read(self._policy()).reads
            except ValueError as error:
                raise ValueError(f"model: {error}") from error

    def _calculate_rewards(self, *args: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args)  # of all ranks
        if rewards.isnan().all(1).any():
            raise ValueError("reward_funcs: a completion got no reward; expected a number from at least one of them")
        self._outcome = (rewards * self.reward_weights.to(rewards.device)).nansum(1).float().cpu()
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        turns = turn_ids((output["completion_mask"] * output.get("tool_mask", 1)).bool())
        credit = self.credit(self.trajectories(inputs, output, turns)).to(turns.device)
        assigned = {f"{CREDIT}{field.name}": getattr(credit, field.name) for field in fields(credit)}
        return output | assigned | {"turn_ids": turns}

    def trajectories(self, inputs: Sequence[dict[str, Any]], output: dict[str, Any], turns: Tensor) -> list[Trajectory]:
        """TRL's rows as our trajectories; a group is `num_generations` consecutive rows of all ranks."""
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        first = local_rows(len(inputs)).start
        rows = []
        for i, row in enumerate(inputs):
            answers = self._accepted(row.get(self.answer_column), first + i)
            prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()].tolist()
            read = output["completion_mask"][i].bool()
            before, split = split_turns(output["completion_ids"][i][read].tolist(), (turns[i][read] >= 0).tolist())
            group, sample = divmod(first + i, group_size)
            task = Task(f"row {first + i} of the batch", "", answers)
            outcome = float(self._outcome[first + i])
            # how the episode ended is not read: the reward says it
            rows.append(Trajectory(task, group, sample, (*prompt, *before), split, outcome, StopReason.ANSWERED))
        return rows

    def _accepted(self, value: object, row: int) -> tuple[str, ...]:
        answers = [value] if isinstance(value, str) else value
        if not (isinstance(answers, list | tuple) and all(isinstance(answer, str) for answer in answers)):
            raise ValueError(
                f"row {row} of the batch, column {self.answer_column}: got {value!r}; expected a text or a list of them"
            )
        return tuple(dict.fromkeys(answers))

    def _policy(self) -> Policy:
        return Policy(self.accelerator.unwrap_model(self.model), self.processing_class, reads=self._reads)

    def credit(self, trajectories: Sequence[Trajectory]) -> TurnCredit:
        """What the method assigns to this rank's turns; groups are compared over all ranks."""
        answers = self.method.signal.answers
        policy = self._policy()
        scored = score(policy, trajectories, answers, self.answer_wrapper, self.score_tokens)
        if self.log_gain_noise is None:
            self.log_gain_noise = log_gain_noise(policy, scored, self.score_tokens)
        observed = replace(scored.observed, log_gain_noise=self.log_gain_noise or 0.0)
        credit = self.method.assign(observed, self.credit_memory)
        if credit.gain_mask.any():
            self._log_mean("gain/mean", credit.gain[credit.gain_mask])
        return credit

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Adds the share of each token in the loss: of its optimizer step over all of its micro-batches and ranks."""
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training:
            return inputs | {"share": self.method.aggregation(inputs["turn_ids"])}
        here = self._step % self.args.steps_per_generation
        start = here - here % self.args.gradient_accumulation_steps
        step = self._buffered_inputs[start : start + self.current_gradient_accumulation_steps]
        turns = torch.cat([part["turn_ids"] for part in step])
        nothing = torch.zeros(turns.shape, device=turns.device)
        shares = self.method.weigh(turns, nothing, nothing).split([len(part["turn_ids"]) for part in step])
        return inputs | {"share": shares[here - start] * self.accelerator.num_processes}  # DDP averages over ranks

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        turns, method = inputs["turn_ids"], self.method
        ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        logprobs, entropy, _ = self._get_per_token_logps_and_entropies(
            model, ids, mask, turns.shape[1], compute_entropy=True
        )
        old = inputs.get("old_per_token_logps", logprobs.detach())
        share = inputs["share"]
        weight = share * inputs.get("importance_sampling_ratio", 1.0)  # TRL's own correction for its engine
        credit = TurnCredit(**{field.name: inputs[f"{CREDIT}{field.name}"] for field in fields(TurnCredit)})
        loss, clipped = method.loss(logprobs, old, turns, credit, weight)
        if self.beta:
            loss = loss + self.beta * (share * k3_kl(logprobs, inputs["ref_per_token_logps"])).sum()
        self._log_mean("entropy", entropy[turns >= 0])
        self._log_mean("clip_ratio/region_mean", clipped[turns >= 0])
        return loss

    def _log_mean(self, name: str, values: Tensor) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(values.float().mean().item())
