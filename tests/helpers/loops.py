"""A loop with room for everything, so that a test names only the limit it is about."""

from collections.abc import Callable

from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Engine, Environment
from a2tgpo.rollouts.rewards.outcome import OutcomeReward
from a2tgpo.rollouts.trajectory import Task


def loop(engine: Engine, environment: Callable[[Task], Environment], **changes: object) -> Rollout:
    """No episode may fail, unless `changes` says otherwise."""
    settings = {
        "reward": OutcomeReward("success", malformed=-1.0, unanswered=-1.0),
        "max_prompt_tokens": 64,
        "max_response_tokens": 200,
        "max_action_tokens": 40,
        "max_sessions": 64,
        "episode_timeout": 60.0,
        "max_failed_share": 0.0,
    }
    return Rollout(engine, environment, **(settings | changes))
