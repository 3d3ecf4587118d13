"""Beliefs after every turn: behind the trajectories' own cache, and in the ways they are usually computed.

Each way also gives the log-probs of the actions, which are needed anyway; what the gains cost is the ratio to these
alone. All ways project only what predicts a token, in fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches
from a2tgpo.scoring.beliefs import AnswerQuery, EncodedAnswer, answer_logprobs, build_answer_block
from a2tgpo.scoring.projection import predict
from a2tgpo.scoring.score import read
from benchmarks import models
from benchmarks.episodes import Episodes, random_trajectories
from benchmarks.harness import Benchmark

TOLERANCE = {"cpu": 1e-4, "cuda": 0.05}
"""Nats. A large model's fp32 differs by 2e-5 between batches, bf16 keys and values move an answer by hundredths."""


@dataclass(frozen=True)
class Work:
    """A model, its trajectories, and positions of a micro-batch."""

    model: str
    episodes: Episodes
    budget: int
    answer: int = 12
    """Tokens of an answer with the text before it; four of them are that text."""
    goal: float = 1.10
    """Log-probs with all gains over log-probs alone."""


LONG = Episodes(groups=1, group_size=8, turns=7, prompt=40, action=60, result=106, sigma=0)
"""1,096 tokens."""
PAPER_LENGTH = replace(LONG, group_size=32, prompt=200, action=200, result=500)
"""4,600 tokens."""
SIZES = {
    "cpu": (
        Work("0.66 M", LONG, 4096),
        Work("0.66 M", replace(PAPER_LENGTH, group_size=1), 8192),
        Work("135 M", replace(LONG, group_size=1), 4096),
    ),
    "cuda": (
        Work("135 M", replace(PAPER_LENGTH, group_size=7), 32768, goal=1.06),
        Work("1.7 B", replace(PAPER_LENGTH, group_size=7), 32768, goal=1.06),
    ),
}

Beliefs = Callable[[Policy, Sequence[Trajectory], Sequence[AnswerQuery], int], Tensor]


def queries_of(policy: Policy, trajectories: Sequence[Trajectory], n_tokens: int) -> list[AnswerQuery]:
    """One answer of `n_tokens` tokens in every belief state."""
    ids = tuple(5 + i % (len(policy.tokenizer) - 5) for i in range(n_tokens))
    answer = EncodedAnswer(ids, start=4)
    return [AnswerQuery(row, end, answer) for row, t in enumerate(trajectories) for end in t.context_lengths]


# ---- The usual ways --------------------------------------------------------------------------------------------------


def _mean_by_query(logprobs: Tensor, queries: Sequence[AnswerQuery]) -> Tensor:
    counts = [len(query.answer.ids) - query.answer.start for query in queries]
    return torch.stack([part.mean() for part in logprobs.split(counts)]).cpu()


def _read_from_the_start(policy: Policy, trajectories: Sequence[Trajectory], queries: Sequence[AnswerQuery]) -> Tensor:
    """One row a query: its context and answer, padded to the longest."""
    rows = [[*trajectories[query.row].token_ids[: query.context], *query.answer.ids] for query in queries]
    width = max(map(len, rows))
    ids = torch.tensor([row + [policy.pad_id] * (width - len(row)) for row in rows], device=policy.device)
    picks = [
        (i, query.context + j - 1, query.answer.ids[j])
        for i, query in enumerate(queries)
        for j in range(query.answer.start, len(query.answer.ids))
    ]
    places = (torch.tensor(pick, device=policy.device) for pick in zip(*picks, strict=True))
    return _mean_by_query(predict(policy, *places, ids, use_cache=False)[0], queries)


def prefix_by_prefix(
    policy: Policy, trajectories: Sequence[Trajectory], queries: Sequence[AnswerQuery], budget: int
) -> Tensor:
    """A forward for each context with its answer."""
    return torch.cat([_read_from_the_start(policy, trajectories, [query]) for query in queries])


def padded_prefixes(
    policy: Policy, trajectories: Sequence[Trajectory], queries: Sequence[AnswerQuery], budget: int
) -> Tensor:
    """The same in batches, as they come: all contexts of a trajectory stand in it together, padded to the longest."""
    longest = max(query.context + len(query.answer.ids) for query in queries)
    size = max(1, budget // longest)
    parts = [queries[i : i + size] for i in range(0, len(queries), size)]
    return torch.cat([_read_from_the_start(policy, trajectories, part) for part in parts])


def turn_by_turn(
    policy: Policy, trajectories: Sequence[Trajectory], queries: Sequence[AnswerQuery], budget: int
) -> Tensor:
    """Each trajectory once; then for each of its turns the cache cut back to the turn, and the answer behind it."""
    found = torch.zeros(len(queries))
    for row, trajectory in enumerate(trajectories):
        cache = DynamicCache()
        ids = torch.tensor([trajectory.token_ids], device=policy.device)
        policy.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        own = [n for n, query in enumerate(queries) if query.row == row]
        for n in sorted(own, key=lambda n: -queries[n].context):
            cache.crop(queries[n].context - cache.get_seq_length())  # tokens to be removed, as a negative number
            block = build_answer_block([queries[n]], [0], 1, queries[n].context, policy.device)
            found[n] = answer_logprobs(policy, cache, block)
    return found


def tree_mask(
    policy: Policy, batch: RolloutBatch, queries: Sequence[AnswerQuery], budget: int
) -> tuple[Tensor, Tensor]:
    """Log-probs of the actions and beliefs in one forward: the answers stand behind the trajectory, each under a mask
    that shows it its own context and itself."""
    logprobs, beliefs = torch.zeros(batch.turn_ids.shape), torch.zeros(len(queries))
    for rows in micro_batches(batch.lengths.tolist(), budget):
        part, place = batch.rows(rows).to(policy.device), {row: i for i, row in enumerate(rows)}
        asked = [n for n, query in enumerate(queries) if query.row in place]
        here, seen = [queries[n] for n in asked], part.input_ids.shape[1]
        block = build_answer_block(here, [place[q.row] for q in here], len(rows), seen, policy.device)
        causal = torch.ones(seen, seen + block.ids.shape[1], dtype=torch.bool, device=policy.device).tril()
        mask = torch.cat([causal.expand(len(rows), 1, -1, -1), block.mask], dim=2)
        columns = torch.arange(seen, device=policy.device).expand(len(rows), -1)
        positions = torch.cat([columns, block.position_ids], dim=1)
        row, column = (part.turn_ids >= 0).nonzero(as_tuple=True)
        found, _ = predict(
            policy,
            torch.cat([row, block.row]),
            torch.cat([column - 1, seen + block.column]),
            torch.cat([part.input_ids[row, column], block.target]),
            torch.cat([part.input_ids, block.ids], dim=1),
            with_entropy=True,
            attention_mask=policy.attention_mask(mask, positions, positions),
            position_ids=positions,
            use_cache=False,
        )
        actions, answers = found.split([len(row), len(block.row)])
        logprobs[rows, :seen] = torch.zeros(part.turn_ids.shape).index_put((row.cpu(), column.cpu()), actions.cpu())
        beliefs[asked] = _mean_by_query(answers, here)
    return logprobs, beliefs


# ---- Measured --------------------------------------------------------------------------------------------------------

FROM_THE_START: dict[str, Beliefs] = {"one forward a prefix": prefix_by_prefix, "all prefixes, padded": padded_prefixes}
BEHIND_A_CACHE: dict[str, Beliefs] = {"cache cut back turn by turn": turn_by_turn}
ALONE, OURS, TREE = "log-probs alone", "with beliefs, behind the cache (ours)", "tree mask"


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time all ways on each of `works`."""
    for work in works:
        _measure(bench, work)


@torch.no_grad()
def _measure(bench: Benchmark, work: Work) -> None:
    policy = models.load(work.model, bench)
    trajectories = random_trajectories(policy, work.episodes)
    batch, queries = collate(trajectories, policy.pad_id), queries_of(policy, trajectories, work.answer)

    def ours(asked: Sequence[AnswerQuery]) -> Tensor:
        with bench.precision():
            return read(policy, batch, asked, work.budget).answer_logprobs

    def tree() -> Tensor:
        with bench.precision():
            return tree_mask(policy, batch, queries, work.budget)[1]

    def usual(beliefs: Beliefs) -> Tensor:
        ours([])
        with bench.precision():
            return beliefs(policy, trajectories, queries, work.budget)

    behind = {name: partial(usual, beliefs) for name, beliefs in BEHIND_A_CACHE.items()} | {TREE: tree}
    again = {name: partial(usual, beliefs) for name, beliefs in FROM_THE_START.items()}
    expected = ours(queries)

    def check(name: str, beliefs: Tensor) -> None:
        if name not in (ALONE, OURS):
            apart = float((beliefs - expected).abs().max())
            bench.agree(f"{work.model}: beliefs, {name}", apart, TOLERANCE[bench.device.type])

    tokens = int(batch.lengths.sum())
    title = f"{work.model}: {len(batch)} trajectories of {tokens // len(batch)} tokens, {len(queries)} beliefs"
    cached = {ALONE: lambda: ours([]), OURS: lambda: ours(queries)}
    ratios = bench.compare(title, cached | behind, check=check)
    kind = f"{work.model}, {tokens // len(batch)} tokens"
    bench.goal(f"{kind}: log-probs with all gains over log-probs alone", ratios[OURS], at_most=work.goal)
    _not_slower(bench, kind, ratios, behind)
    slow = {OURS: cached[OURS]} | again
    _not_slower(bench, kind, bench.compare(f"{title}, read again", slow, rounds=1, check=check), again)


def _not_slower(bench: Benchmark, kind: str, ratios: dict[str, float], rivals: Sequence[str]) -> None:
    fastest = min(rivals, key=ratios.__getitem__)
    bench.goal(f"{kind}: ours over the fastest of the others, {fastest}", ratios[OURS] / ratios[fastest], at_most=1.0)
