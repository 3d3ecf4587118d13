"""The data: fresh multi-turn rollouts each epoch, cut into mini-batches; greedy rollouts for evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.branching import Branching
from a2tgpo.rollouts.forks import with_values
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Engine, Environment, Metered, OwnWeights, Reward
from a2tgpo.rollouts.start import EVALUATION_NOISE, FORK_NOISE, TRAINING_NOISE
from a2tgpo.rollouts.trajectory import Split, Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.system.distributed import rank_and_world_size, shard
from a2tgpo.system.errors import SettingError, finite
from a2tgpo.system.process import precision_context
from a2tgpo.system.settings import require_all
from a2tgpo.tasks.protocols import Tasks
from a2tgpo.training.ahead import Ahead
from a2tgpo.training.metrics import staleness_metrics
from a2tgpo.training.protocols import Learner
from a2tgpo.training.refill import Filled, Prompts, fill


class RolloutDataModule(LightningDataModule):
    """One epoch is one rollout set: `prompts_per_iteration` prompts × `group_size` trajectories.

    The prompts of an iteration depend on (seed, iteration) alone; ranks share the prompts of each mini-batch. A prompt
    whose outcomes are all equal gives its place to another one, at most `refill_rounds` times; where that is not 0,
    what is equal even then is left out. `shaping` adds to the outcomes of training, `branching` makes trees of groups.
    Where the engine's weights may be stale, a set is played while the one before is scored and trained on.
    """

    def __init__(
        self,
        tasks: Tasks,
        environment: Callable[[Task], Environment],
        engine: Engine,
        reward: Reward,
        shaping: Reward | None,
        branching: Branching | None,
        prompts_per_iteration: int,
        mini_batch_prompts: int,
        group_size: int,
        refill_rounds: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        max_action_tokens: int,
        max_sessions: int,
        episode_timeout: float,
        max_failed_share: float,
        continuations: int,
        seed: int,
        val_tasks: int,
        test_tasks: int,
    ) -> None:
        super().__init__()
        own = {"prompts_per_iteration": prompts_per_iteration, "mini_batch_prompts": mini_batch_prompts}
        own |= {"group_size": group_size, "seed": seed, "val_tasks": val_tasks, "test_tasks": test_tasks}
        own |= {"refill_rounds": refill_rounds, "continuations": continuations}
        require_all(own, "data.module")
        if prompts_per_iteration % mini_batch_prompts:
            raise ValueError(
                f"data.module.mini_batch_prompts={mini_batch_prompts}: expected a divisor of "
                f"data.module.prompts_per_iteration={prompts_per_iteration}"
            )
        self.rollout = Rollout(
            engine,
            environment,
            reward,
            max_prompt_tokens,
            max_response_tokens,
            max_action_tokens,
            max_sessions,
            episode_timeout,
            max_failed_share,
        )
        is_ahead = isinstance(engine, OwnWeights) and engine.max_staleness > 0
        self.ahead = Ahead(self.rollout) if is_ahead else None
        self.tasks, self.shaping, self.branching, self.seed = tasks, shaping, branching, seed
        self.prompts_per_iteration, self.mini_batch_prompts = prompts_per_iteration, mini_batch_prompts
        self.group_size, self.refill_rounds, self.continuations = group_size, refill_rounds, continuations
        self.steps_per_iteration = prompts_per_iteration // mini_batch_prompts
        self._lap, self._order = -1, np.empty(0, dtype=int)
        self._served: tuple[int, list[RolloutBatch]] = (-1, [])
        self._roomy: set[Split] = set()
        self.eval_tasks = {Split.VALIDATION: val_tasks, Split.TEST: test_tasks}

    def setup(self, stage: str) -> None:
        """Forget earlier rollouts, refuse settings under which training would be wrong.

        Raises ValueError where Lightning would train on stale rollouts, where ranks cannot share a mini-batch
        evenly or would have to agree about a set that is played ahead, where a split has no tasks, or where a question
        or accepted answer of this run is too long.
        """
        self._forget()
        _, n_ranks = rank_and_world_size()
        if stage == "fit" and self.trainer.reload_dataloaders_every_n_epochs != 1:
            raise ValueError(
                f"trainer.reload_dataloaders_every_n_epochs={self.trainer.reload_dataloaders_every_n_epochs}: "
                "expected 1, or every epoch after the first would train on the first epoch's rollouts"
            )
        limit = self.trainer.limit_train_batches
        if stage == "fit" and (limit != 1.0 or isinstance(limit, int)):  # 1 is one mini-batch, 1.0 are all
            raise ValueError(
                f"trainer.limit_train_batches={limit}: expected 1.0, or part of every rollout set would be thrown away"
            )
        if self.mini_batch_prompts % n_ranks:
            raise ValueError(
                f"data.module.mini_batch_prompts={self.mini_batch_prompts}: expected a multiple of the {n_ranks} ranks"
            )
        if stage != "test" and self.ahead is not None and self.refill_rounds and n_ranks > 1:
            raise SettingError(
                f"data.engine.max_staleness={self.rollout.engine.max_staleness}: expected 0 with "
                f"data.module.refill_rounds={self.refill_rounds} on {n_ranks} ranks, which agree on every round"
            )
        self.require_questions(*(Split.TEST,) if stage == "test" else (Split.TRAIN, Split.VALIDATION))
        self._require_room((Split.TEST,) if stage == "test" else tuple(Split))

    def teardown(self, stage: str) -> None:
        """Nothing is played any more."""
        self._forget()

    def on_exception(self, exception: BaseException) -> None:
        """Nothing is played any more."""
        self._forget()

    def _forget(self) -> None:
        self._served = (-1, [])
        if self.ahead is not None:
            self.ahead.drop()

    def require_questions(self, *splits: Split) -> None:
        """Raises ValueError where one of `splits` has fewer questions than there are ranks."""
        _, n_ranks = rank_and_world_size()
        for split in splits:
            count = len(self.tasks.split(split))
            if count < n_ranks:
                raise ValueError(f"data.tasks: the {split} split has {count} questions; expected at least {n_ranks}")

    def _require_room(self, splits: Sequence[Split]) -> None:
        """Hold all that this run will ask against the token limits, before its first episode."""
        learner: Learner = self.trainer.lightning_module
        for split in splits:
            if split in self._roomy:
                continue
            self.rollout.require_prompts_fit(learner.policy, self._asked(split))
            if split is Split.TRAIN:
                learner.require_context_length(self._asked(split), self.rollout.max_sequence_tokens)
            self._roomy.add(split)

    def _asked(self, split: Split) -> Iterator[Task]:
        """The tasks that this run asks: for evaluation the first ones of their split, for training those it draws."""
        tasks, epochs = self.tasks.split(split), self.trainer.max_epochs
        if split is Split.TRAIN:
            endless = epochs is None or epochs < 0
            count = None if endless else epochs * (1 + self.refill_rounds) * self.prompts_per_iteration
            indices = self._shuffled(0, len(tasks))[:count].tolist()
        else:
            indices = self._evaluated(split)
        return (tasks[index] for index in indices)

    # ---- training ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        """Roll out this epoch's prompts, have them scored, and serve the mini-batches.

        Asked twice for one iteration, as at a resume, it serves the same.
        """
        iteration = self.trainer.fit_loop.epoch_progress.current.processed
        if self._served[0] != iteration:
            self._served = (iteration, self.make_rollout_set(iteration))
        return DataLoader(self._served[1], batch_size=None)

    def make_rollout_set(self, iteration: int) -> list[RolloutBatch]:
        """The mini-batches of a fresh rollout set."""
        learner: Learner = self.trainer.lightning_module
        self.rollout.episodes.told = learner.phases.step
        self._take_usage()  # that of a validation
        with learner.phases("rollout"), self.precision():
            filled = self._played(iteration)
        usage = self._take_usage()
        trained = filled.telling if self.refill_rounds else list(filled.groups)
        kept = trained or list(filled.groups)  # a rank with nothing to train on scores something nevertheless
        trajectories = self.shaped([trajectory for place in kept for trajectory in filled.groups[place]])
        n_failed = len(kept) * self.group_size - len(trajectories)
        steps = self.mini_batches([trajectory.group for trajectory in trajectories] if trained else [])
        with self.precision():
            batch = learner.prepare(trajectories, [rows or [0] for rows in steps], n_failed)
        learner.metrics |= usage | staleness_metrics(trajectories, iteration)
        if self.ahead is not None:
            learner.metrics["seconds/rollout_ahead"] = self.ahead.seconds
        if self.refill_rounds:
            learner.metrics["train/groups_played"] = filled.n_played / len(filled.groups)
            learner.metrics["train/groups_left_out"] = 1 - len(trained) / len(filled.groups)
        return [batch.rows(rows) if rows else batch.stand_in() for rows in steps]

    def _played(self, iteration: int) -> Filled:
        """This rank's groups of a set. Where sets are played ahead, that of the next iteration is begun."""
        learner: Learner = self.trainer.lightning_module
        engine, policy = self.rollout.engine, learner.policy
        if isinstance(engine, OwnWeights):
            engine.version = iteration
        if self.ahead is None:
            return self._play_set(self.rollout, policy, self._draws(iteration))
        filled = self.ahead.take(iteration, learner.phases.step)
        if filled is None:
            filled = self._play_set(self.rollout, policy, self._draws(iteration))
        if not self._is_last(iteration):
            engine.sync(policy)  # nobody samples now, on any rank
            self.ahead.begin(iteration + 1, policy, partial(self._play_set, draws=self._draws(iteration + 1)))
        return filled

    def _is_last(self, iteration: int) -> bool:
        epochs = self.trainer.max_epochs
        return epochs is not None and 0 <= epochs <= iteration + 1

    def _draws(self, iteration: int) -> dict[int, Prompts]:
        """This rank's prompts of a set, and those that may take their places, by the number of the draw."""
        n_draws = 1 + self.refill_rounds
        return {draw: self._own_prompts(draw) for draw in range(iteration * n_draws, (iteration + 1) * n_draws)}

    def _play_set(self, rollout: Rollout, policy: Policy, draws: Mapping[int, Prompts]) -> Filled:
        def play(prompts: Prompts, draw: int) -> list[Trajectory]:
            return self.play(rollout, policy, prompts, (self.seed, TRAINING_NOISE, draw))

        return fill(draws, draws.__getitem__, play)

    def _take_usage(self) -> Mapping[str, float]:
        engine = self.rollout.engine
        return engine.take_usage() if isinstance(engine, Metered) else {}

    def _own_prompts(self, draw: int) -> list[tuple[int, Task]]:
        return shard(list(enumerate(self.draw_tasks(draw))), self.mini_batch_prompts)

    def shaped(self, trajectories: Sequence[Trajectory]) -> Sequence[Trajectory]:
        """The trajectories with what training adds to their outcomes."""
        if self.shaping is None:
            return trajectories
        added = zip(trajectories, self.shaping(trajectories), strict=True)
        return [replace(t, outcome=t.outcome + finite("data.shaping", extra)) for t, extra in added]

    def play(self, rollout: Rollout, policy: Policy, prompts: Prompts, key: tuple[int, ...]) -> list[Trajectory]:
        """The episodes of these prompts that did not fail, with the values of their states where forks are asked for;
        `key` keys the sampling noise."""
        if self.branching is not None:
            played = self.branching(rollout, policy, prompts, self.group_size, key)
        else:
            played = rollout.run(policy, prompts, self.group_size, key, greedy=False)
        if not self.continuations:
            return played
        return with_values(rollout, policy, played, self.continuations, (self.seed, FORK_NOISE, *key))

    def precision(self) -> AbstractContextManager:
        """The precision of the training step, for sampling and scoring too: the first ratio after them must be 1.

        The trainer's own context would cast every weight again for every token.
        """
        return precision_context(self.trainer.strategy.root_device, self.trainer.precision)

    def draw_tasks(self, draw: int) -> list[Task]:
        """The prompts of a draw (an iteration, or a round of one): the next ones of an endless walk over reshuffled
        training tasks."""
        tasks = self.tasks.split(Split.TRAIN)
        drawn = []
        for position in range(draw * self.prompts_per_iteration, (draw + 1) * self.prompts_per_iteration):
            lap, index = divmod(position, len(tasks))
            drawn.append(tasks[self._shuffled(lap, len(tasks))[index]])
        return drawn

    def _shuffled(self, lap: int, count: int) -> np.ndarray:
        if self._lap != lap:
            self._lap, self._order = lap, np.random.default_rng([self.seed, lap]).permutation(count)
        return self._order

    def mini_batches(self, groups: Sequence[int]) -> list[list[int]]:
        """This rank's rows of each mini-batch, given the group of each row: whole groups, of whatever size they are."""
        rows: list[list[int]] = [[] for _ in range(self.steps_per_iteration)]
        for row, group in enumerate(groups):  # a group is numbered by its prompt in the rollout set
            rows[group // self.mini_batch_prompts].append(row)
        return rows

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def val_dataloader(self) -> DataLoader:
        """Greedy episodes of the validation tasks, played when they are asked for."""
        return self.evaluation_loader(Split.VALIDATION)

    def test_dataloader(self) -> DataLoader:
        """Greedy episodes of the test tasks, played when they are asked for."""
        return self.evaluation_loader(Split.TEST)

    def evaluation_loader(self, split: Split) -> DataLoader:
        """One batch: this rank's share of the first tasks of `split`, played greedily."""
        rank, n_ranks = rank_and_world_size()
        tasks = self.tasks.split(split)
        prompts = [(i, tasks[i]) for i in self._evaluated(split)[rank::n_ranks]]
        return DataLoader([prompts], batch_size=None, collate_fn=self.rollout_greedy)

    def _evaluated(self, split: Split) -> range:
        return range(min(self.eval_tasks[split], len(self.tasks.split(split))))

    def rollout_greedy(self, prompts: Sequence[tuple[int, Task]]) -> list[Trajectory]:
        """One greedy episode a prompt, by the newest weights: a set that is under way is waited for."""
        learner: Learner = self.trainer.lightning_module
        if self.ahead is not None:
            with learner.phases("rollout"):
                self.ahead.wait(learner.phases.step)
        self.rollout.episodes.told = learner.phases.step
        with learner.phases("validation"), self.precision():
            return self.rollout.run(learner.policy, prompts, 1, (self.seed, EVALUATION_NOISE), greedy=True)

    def transfer_batch_to_device(self, batch: RolloutBatch | list[Trajectory], *_: object) -> object:
        """Leave batches where they are: the learner moves one micro-batch at a time."""
        return batch
