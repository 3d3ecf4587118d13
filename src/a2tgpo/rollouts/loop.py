"""Rollouts: engine × environment → groups of trajectories, from their prompts or from recorded prefixes.

Who is played together, what is read once, what is lost; one episode's turns are in `episode.py`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

from a2tgpo.policies.policy import Policy, evaluation_mode
from a2tgpo.policies.sharding import scatter
from a2tgpo.rollouts.episode import Episode, EpisodeFailed, Limits
from a2tgpo.rollouts.protocols import Engine, Environment, Forkable, OwnWeights, Reward
from a2tgpo.rollouts.start import ForkNoise, SampleNoise, Start
from a2tgpo.rollouts.tool_health import ToolHealth
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.system.errors import SettingError, finite
from a2tgpo.system.progress import Steps
from a2tgpo.system.settings import require_all

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """Plays episodes, then has `reward` say what each earned.

    `environment(task)` makes one episode; `max_response_tokens` bounds all actions and tool results of a trajectory
    together, `max_action_tokens` one action; `max_sessions` bounds how many environments are begun at once. An
    environment that raises, or takes more than `episode_timeout` seconds in all, costs its trajectory; more than
    `max_failed_share` of lost trajectories end the run, but a single one only where that is 0.
    """

    engine: Engine
    environment: Callable[[Task], Environment]
    reward: Reward
    max_prompt_tokens: int
    max_response_tokens: int
    max_action_tokens: int
    max_sessions: int
    episode_timeout: float
    max_failed_share: float
    tools: ToolHealth = field(default_factory=ToolHealth, init=False, repr=False, compare=False)
    episodes: Steps = field(default_factory=Steps, init=False, repr=False, compare=False)
    """How many of those that are played are over."""

    def __post_init__(self) -> None:
        require_all(vars(self), "data.module")

    @property
    def max_sequence_tokens(self) -> int:
        """Tokens that a trajectory has at most."""
        return self.max_prompt_tokens + self.max_response_tokens

    def run(
        self, policy: Policy, prompts: Sequence[tuple[int, Task]], group_size: int, key: tuple[int, ...], greedy: bool
    ) -> list[Trajectory]:
        """Play `group_size` episodes for each (group index, task), in that order, less those that failed.

        `key` keys the sampling noise. Raises ValueError where the token limits exceed what the model was made for, a
        prompt is too long, a tool brought nothing in many calls, too many episodes failed, or an outcome is no number.
        """
        return asyncio.run(self.run_async(policy, prompts, group_size, key, greedy))

    async def run_async(
        self, policy: Policy, prompts: Sequence[tuple[int, Task]], group_size: int, key: tuple[int, ...], greedy: bool
    ) -> list[Trajectory]:
        """As `run`, for callers that already are in an event loop, such as a notebook."""
        starts = [
            Start(task, group, sample, SampleNoise((*key, group, sample)))
            for group, task in prompts
            for sample in range(group_size)
        ]
        played = await self.play(policy, starts, greedy)
        return [trajectory for trajectory in played if trajectory is not None]

    def continue_from(
        self, policy: Policy, prefixes: Sequence[tuple[Trajectory, int]], k: int, key: tuple[int, ...]
    ) -> list[list[Trajectory]]:
        """For each (trajectory, number of its turns that are kept) `k` sampled continuations, less those that failed.

        A prefix is replayed once where its environment forks, once a continuation elsewhere, and read once by the
        engine for all continuations that are under way together. Prefixes with equal contexts share their
        continuations, in which `group` is the index of the first of these prefixes and `sample` the fork. Of a whole
        trajectory nothing is left to continue: its continuations are itself. Noise is keyed by state, fork and turn.
        Raises ValueError where a trajectory has fewer turns or a prefix leaves no tokens to sample, SettingError where
        its environment cannot be replayed.
        """
        first: dict[tuple, int] = {}
        owner = [first.setdefault(_context(trajectory, n), i) for i, (trajectory, n) in enumerate(prefixes)]
        starts = [
            self._fork(trajectory, n, i, fork, key)
            for i, (trajectory, n) in enumerate(prefixes)
            if owner[i] == i and n < len(trajectory.turns)
            for fork in range(k)
        ]
        forks: dict[int, list[Trajectory]] = {i: [] for i in owner}
        for trajectory in asyncio.run(self.play(policy, starts, greedy=False)):
            if trajectory is not None:
                forks[trajectory.group].append(trajectory)
        for i, (trajectory, n) in enumerate(prefixes):
            if owner[i] == i and n == len(trajectory.turns):
                forks[i] = [replace(trajectory, group=i, sample=fork) for fork in range(k)]
        return [forks[i] for i in owner]

    def _fork(self, trajectory: Trajectory, n_turns: int, group: int, fork: int, key: tuple[int, ...]) -> Start:
        turns = trajectory.turns[:n_turns]
        used = sum(len(turn.action_ids) + len(turn.observation_ids) for turn in turns)
        if used >= self.max_response_tokens:
            raise ValueError(
                f"data.module.max_response_tokens={self.max_response_tokens}: a prefix of task "
                f"{trajectory.task.task_id} has {used} tokens; expected fewer"
            )
        noise = ForkNoise(key, trajectory.task.task_id, fork)
        return Start(trajectory.task, group, fork, noise, trajectory.prompt_ids, turns)

    async def play(self, policy: Policy, starts: Sequence[Start], greedy: bool) -> list[Trajectory | None]:
        """One trajectory a start, in order; None where the episode failed."""
        if self.max_sequence_tokens > policy.max_length:
            raise ValueError(
                f"data.module.max_prompt_tokens={self.max_prompt_tokens}, "
                f"data.module.max_response_tokens={self.max_response_tokens}: together {self.max_sequence_tokens}; "
                f"expected at most the {policy.max_length} positions of the model"
            )
        self.engine.sync(policy)
        episodes = [self._episode(policy, start) for start in starts]
        await self._open_all(episodes)
        self._refuse(self._too_long(episodes))
        self.episodes.begin(len(episodes))
        if isinstance(self.engine, OwnWeights):  # the model is left alone: it may be in training meanwhile
            played = await self._play_together(episodes, greedy)
        else:
            with evaluation_mode(policy.model):
                played = await self._play_together(episodes, greedy)
            scatter(policy.model)  # where the engine gathered it
        failures = [episode.failure for episode in episodes if episode.failure is not None]
        self._count(failures, len(episodes))
        trajectories = [trajectory for trajectory in played if trajectory is not None]
        self.tools.count(trajectories)
        rewarded = iter(self._rewarded(trajectories))
        return [trajectory and next(rewarded) for trajectory in played]

    def require_prompts_fit(self, policy: Policy, tasks: Iterable[Task]) -> None:
        """Raises SettingError where a prompt is longer than `max_prompt_tokens`; says how many are and the longest.

        Environments are built for their prompts alone. What one of them raises is left to its episode.
        """
        asyncio.run(self._require_prompts_fit(policy, tasks))

    async def _require_prompts_fit(self, policy: Policy, tasks: Iterable[Task]) -> None:
        starts = (Start(task, group, 0, SampleNoise(())) for group, task in enumerate(tasks))
        too_long: list[Episode] = []
        while some := [self._episode(policy, start) for start in islice(starts, self.max_sessions)]:
            await self._open_all(some)
            too_long += self._too_long(some)
        self._refuse(too_long)

    def _episode(self, policy: Policy, start: Start) -> Episode:
        limits = Limits(self.max_response_tokens, self.max_action_tokens, self.episode_timeout)
        return Episode(policy, self.environment, start, limits)

    def _too_long(self, episodes: Iterable[Episode]) -> list[Episode]:
        return [episode for episode in episodes if len(episode.prompt_ids) > self.max_prompt_tokens]

    def _refuse(self, too_long: Sequence[Episode]) -> None:
        if too_long:
            longest = max(too_long, key=lambda episode: len(episode.prompt_ids))
            tasks = len({episode.start.group for episode in too_long})
            columns = zip(*(episode.prompt_ids for episode in too_long), strict=False)
            alike = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))
            frame = f", of which {alike} stand in front of every question (data.dialect)" if tasks > 1 and alike else ""
            raise SettingError(
                f"data.module.max_prompt_tokens={self.max_prompt_tokens}: tasks with a longer prompt: {tasks}; the "
                f"longest, {longest.start.task.task_id}, has {len(longest.prompt_ids)} tokens{frame}; expected a limit "
                "that all keep (a resume may change it), or question files without these rows"
            )

    async def _open_all(self, episodes: Sequence[Episode]) -> None:
        """Bring all to their starts, before the first is played: what is wrong with a prompt shows at once."""
        equal: dict[object, list[Episode]] = {}
        for episode in episodes:
            start = episode.start
            equal.setdefault((start.task, start.turns) if start.turns else id(episode), []).append(episode)
        groups = list(equal.values())
        for i in range(0, len(groups), self.max_sessions):
            await asyncio.gather(*map(self._open, groups[i : i + self.max_sessions]))

    async def _open(self, equal: Sequence[Episode]) -> None:
        """Open the first of these episodes, whose starts are equal; the others begin in forks of it where it forks."""
        first: Episode | None = None
        for episode in equal:
            try:
                if first is None or not isinstance(first.environment, Forkable):
                    await episode.open()
                    first = episode
                else:
                    await episode.take_over(first)
            except EpisodeFailed as failure:
                episode.failure = failure

    async def _play_together(self, episodes: Sequence[Episode], greedy: bool) -> list[Trajectory | None]:
        """Play those that could be opened; equal contexts are read once."""
        by_context: dict[tuple[int, ...], list[Episode]] = {}
        for episode in episodes:
            if episode.failure is None:
                by_context.setdefault(episode.context, []).append(episode)
        sessions: dict[int, object] = {}
        for context, equal in by_context.items():
            sessions |= zip(map(id, equal), await self.engine.open(context, len(equal)), strict=True)

        async def play(episode: Episode) -> Trajectory | None:
            trajectory = None
            try:
                if episode.failure is None:
                    trajectory = await episode.play(self.engine, sessions[id(episode)], greedy)
            except EpisodeFailed as failure:
                episode.failure = failure
            self.episodes.step()
            return trajectory

        return await asyncio.gather(*map(play, episodes))

    def _count(self, failures: Sequence[EpisodeFailed], n_episodes: int) -> None:
        if not failures:
            return
        told = f"{len(failures)} of {n_episodes} episodes failed; the last: {failures[-1]}"
        if len(failures) > max(self.max_failed_share * n_episodes, self.max_failed_share > 0):
            raise ValueError(f"data.module.max_failed_share={self.max_failed_share}: {told}") from failures[-1]
        _log.warning("%s", told)

    def _rewarded(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        outcomes = list(self.reward(trajectories))
        if len(outcomes) != len(trajectories):
            raise ValueError(
                f"data.reward: {len(outcomes)} outcomes for {len(trajectories)} trajectories; expected one each"
            )
        return [
            replace(t, outcome=finite(f"data.reward: outcome of task {t.task.task_id}", outcome))
            for t, outcome in zip(trajectories, outcomes, strict=True)
        ]


def _context(trajectory: Trajectory, n_turns: int) -> tuple:
    """What makes two prefixes the same."""
    if not 0 <= n_turns <= len(trajectory.turns):
        raise ValueError(
            f"task {trajectory.task.task_id}: a prefix of {n_turns} turns; the trajectory has {len(trajectory.turns)}"
        )
    turns = tuple((turn.action_ids, turn.observation_ids) for turn in trajectory.turns[:n_turns])
    ended = n_turns == len(trajectory.turns)
    return trajectory.task.task_id, trajectory.prompt_ids, turns, ended
