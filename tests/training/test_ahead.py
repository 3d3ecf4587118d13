"""Sets that are played ahead: what overlaps and what must not, who sampled what, and how it ends."""

import signal
import threading
import time

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback

import train
from a2tgpo.engines.vllm import request_seed
from a2tgpo.rollouts.start import TRAINING_NOISE
from a2tgpo.system.progress import nobody
from a2tgpo.training.ahead import Ahead
from a2tgpo.training.refill import Filled
from tests.engines.test_huggingface import Talk
from tests.helpers.completions_server import CompletionsServer
from tests.helpers.loops import loop
from tests.helpers.shipped import pretrained_policy
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, finish, fit, start, table

WAIT = 60.0
"""Seconds after which something that must happen has not happened."""
GROUPS, SAMPLES, TURNS, ITERATIONS = 2, 2, 8, 3
SERVED = (
    "experiment=a2tgpo",
    *SMALL,
    "model/policy=tiny_lora",
    "model/reference=disabled_adapter",
    "data/engine=vllm",
    "model.optimizer.lr=1e-2",
    "data.module.prompts_per_iteration=2",
    "data.module.mini_batch_prompts=1",
    "data.module.val_tasks=1",
    f"paths.policy_dir={SHIPPED}",
)
DRAWS = {
    request_seed((0, TRAINING_NOISE, draw, group, sample, turn)): draw
    for draw in range(ITERATIONS + 2)
    for group in range(GROUPS)
    for sample in range(SAMPLES)
    for turn in range(TURNS)
}
"""Which iteration a request belongs to, by its seed."""


class WatchedServer(CompletionsServer):
    """Writes down what happens in which order, and may keep the requests of an iteration waiting or refuse them."""

    def __init__(self, *arguments):
        self.events, self.under_way, self.refused = [], 0, None
        self.arrived, self.gates = {}, {}
        super().__init__(*arguments)

    def hold(self, draw):
        """The requests of this iteration wait until its gate is opened."""
        self.arrived[draw], self.gates[draw] = threading.Event(), threading.Event()

    def happened(self, *event):
        with self.lock:
            self.events.append(event)

    def of(self, kind):
        """What was said of the events of a kind."""
        return [event[1:] for event in self.events if event[0] == kind]

    def complete(self, body):
        draw = DRAWS.get(body["seed"], "evaluation")
        self.happened("asked", draw, body["model"])
        with self.lock:
            self.under_way += 1
        try:
            if draw in self.gates:
                self.arrived[draw].set()
                self.gates[draw].wait(WAIT)
            return (400, {"error": "no"}) if draw == self.refused else super().complete(body)
        finally:
            with self.lock:
                self.under_way -= 1

    def post(self, path, body):
        if path == "/v1/load_lora_adapter":
            self.happened("pushed", body["lora_name"], self.under_way)
        return super().post(path, body)


class Watch(Callback):
    """Writes down updates, and what each set was sampled by; `at_update(trainer, iteration)` runs in front of the end
    of an update."""

    def __init__(self, server, at_update=lambda trainer, iteration: None):
        self.server, self.at_update = server, at_update
        self.versions, self.metrics = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.is_last_batch:
            self.at_update(trainer, trainer.current_epoch)
            self.server.happened("updated", trainer.current_epoch)

    def on_train_epoch_end(self, trainer, pl_module):
        self.versions.append({turn.weights_version for t in pl_module.trajectories for turn in t.turns})
        self.metrics.append(pl_module.metrics | {f"seconds/{name}": s for name, s in pl_module.seconds.items()})


@pytest.fixture
def server():
    watched = WatchedServer(SHIPPED, pretrained_policy(str(SHIPPED)).tokenizer)
    yield watched
    for gate in watched.gates.values():
        gate.set()
    watched.stop()


@pytest.fixture
def configured(composed, server, tmp_path):
    """`configured(max_staleness, override, …)`: a small run on the server."""

    def build(max_staleness, *overrides):
        folder = f"data.engine.weight_sync.directory={tmp_path / 'served'}"
        engine = (f"data.engine.url={server.url}", folder, f"data.engine.max_staleness={max_staleness}")
        return composed(*SERVED, *engine, *overrides)

    return build


def playing():
    """Threads that play a set ahead."""
    return [thread for thread in threading.enumerate() if thread.name == "rollout ahead"]


def samplers(server):
    """The adapters that were asked in each iteration."""
    asked = server.of("asked")
    return [{model for draw, model in asked if draw == i} for i in range(ITERATIONS)]


# ---- what overlaps ---------------------------------------------------------------------------------------------------


def test_the_next_set_is_asked_for_while_this_one_is_trained_on(server, configured):
    came, modes = [], []

    def await_requests(trainer, iteration):
        if iteration == 0:
            came.append(server.arrived[1].wait(WAIT))
            modes.append(trainer.lightning_module.model.training)
            server.gates[1].set()

    server.hold(1)
    watch = Watch(server, await_requests)
    fit(configured(1), [watch])
    assert came == [True] and modes == [True]  # in the middle of an update, the model was left in training mode
    assert server.events.index(("asked", 1, min(samplers(server)[1]))) < server.events.index(("updated", 0))
    assert {draw for draw, _ in server.of("asked")} == set(range(ITERATIONS)) and not playing()


@pytest.mark.slow
def test_without_staleness_a_set_is_asked_for_when_the_one_before_is_trained_on(server, configured):
    watch = Watch(server)
    trainer = fit(configured(0), [watch])
    order = [event[:2] for event in server.events if event[0] != "pushed"]
    firsts = [order.index(("asked", i)) for i in range(ITERATIONS)]
    lasts = [len(order) - 1 - order[::-1].index(("asked", i)) for i in range(ITERATIONS)]
    updates = [order.index(("updated", i)) for i in range(ITERATIONS)]
    assert all(firsts[i] <= lasts[i] < updates[i] for i in range(ITERATIONS))
    assert all(updates[i] < firsts[i + 1] for i in range(ITERATIONS - 1))
    assert watch.versions == [{0}, {1}, {2}] and trainer.datamodule.ahead is None
    assert [m["policy/rollout_staleness_max"] for m in watch.metrics] == [0.0] * ITERATIONS
    assert all("seconds/rollout_ahead" not in m for m in watch.metrics)


@pytest.mark.parametrize(
    ("max_staleness", "versions", "adapters"),
    [(1, [0, 0, 1], [0, 0, 1]), pytest.param(2, [0, 0, 0], [0, 0, 0], marks=pytest.mark.slow)],
)
def test_completions_carry_the_version_that_sampled_them(server, configured, max_staleness, versions, adapters):
    watch = Watch(server)
    fit(configured(max_staleness), [watch])
    assert watch.versions == [{version} for version in versions]
    lags = [float(i - version) for i, version in enumerate(versions)]
    assert [m["policy/rollout_staleness_mean"] for m in watch.metrics] == lags
    assert [m["policy/rollout_staleness_max"] for m in watch.metrics] == lags
    pushed = [name for name, _ in server.of("pushed")]
    assert samplers(server) == [{pushed[n]} for n in adapters]
    gaps = [m["policy/rollout_gap_max"] for m in watch.metrics]
    assert gaps[0] < 1e-4 < 1e-2 < min(gaps[1:])  # told by other weights than those that are trained


def test_of_weights_that_stay_sets_ahead_are_those_that_are_played_in_time(server, configured):
    still = ("model.optimizer.lr=1e-30", "model.scheduler.num_warmup_steps=0")
    runs = [Watch(server), Watch(server)]
    for max_staleness, watch in enumerate(runs):
        torch.manual_seed(0)  # of the adapter
        fit(configured(max_staleness, *still), [watch])
    apart = ("seconds/", "policy/rollout_staleness")
    in_time, ahead = (
        [{name: value for name, value in m.items() if not name.startswith(apart)} for m in run.metrics] for run in runs
    )
    assert in_time == ahead and len(ahead) == ITERATIONS


@pytest.mark.slow
def test_the_time_of_a_set_ahead_is_told_apart_and_not_counted_twice(server, configured):
    watch = Watch(server)
    learner = fit(configured(1), [watch]).lightning_module
    first, *later = (m["seconds/rollout_ahead"] for m in watch.metrics)
    assert first == 0.0 < min(later) and "rollout_ahead" not in learner.phases.seconds


@pytest.mark.parametrize(
    "how",
    [
        ("data.module.refill_rounds=1",),
        pytest.param(("data/branching=tree", "data.module.continuations=1"), marks=pytest.mark.slow),
    ],
    ids=["refill", "branching and forks"],
)
def test_further_rounds_of_a_set_are_sampled_by_the_weights_of_the_first(server, configured, how):
    watch = Watch(server)
    fit(configured(1, *how), [watch])
    assert watch.versions == [{0}, {0}, {1}]
    assert len(server.of("pushed")) == 2 and {under_way for _, under_way in server.of("pushed")} == {0}


# ---- where it ends ---------------------------------------------------------------------------------------------------


def test_validation_waits_for_the_set_ahead_and_nothing_is_played_beyond_the_last(server, configured):
    watch = Watch(server)
    fit(configured(1), [watch], limit_val_batches=1.0)
    pushed = [name for name, _ in server.of("pushed")]
    order = [event for event in server.events if event[0] != "pushed"]
    for iteration in range(ITERATIONS):
        updated = order.index(("updated", iteration))
        validated = [i for i, e in enumerate(order) if e == ("asked", "evaluation", pushed[iteration + 1])]
        ahead = [i for i, event in enumerate(order) if event[:2] == ("asked", iteration + 1)]
        assert validated and updated < min(validated)
        assert not ahead or max(ahead) < min(validated)
    assert watch.versions == [{0}, {0}, {1}]
    assert not any(under_way for _, under_way in server.of("pushed")) and len(pushed) == ITERATIONS + 1
    assert {draw for draw, _ in server.of("asked")} == {*range(ITERATIONS), "evaluation"} and not playing()


def test_what_fails_ahead_ends_the_run_behind_the_update_in_the_same_line(server, configured):
    said, updates = [], []
    for max_staleness in (0, 1):
        server.events.clear()
        server.refused = 1
        with pytest.raises(ValueError, match=r"^data.engine.url=.*was refused with status 400") as failed:
            fit(configured(max_staleness), [Watch(server)])
        said.append(str(failed.value))
        updates.append(server.of("updated"))
    assert said[0] == said[1] and updates == [[(0,)], [(0,)]] and not playing()


def test_a_run_that_is_ended_leaves_no_thread(server, configured):
    def end(trainer, iteration):
        assert server.arrived[1].wait(WAIT) and playing()
        raise SystemExit(143)

    server.hold(1)
    with pytest.raises(SystemExit):
        fit(configured(1), [Watch(server, end)])
    assert not playing()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_has_a_set_under_way(server, tmp_path, number):
    server.hold(1)
    engine = (f"data.engine.url={server.url}", "data.engine.max_staleness=1", f"hydra.run.dir={tmp_path}")
    process = start("train.py", *SERVED, *engine)
    assert server.arrived[1].wait(WAIT)
    process.send_signal(number)
    began = time.monotonic()
    output, errors = finish(process, WAIT)
    assert process.returncode == 128 + number and f"interrupted by {number.name}" in output and errors == ""
    assert time.monotonic() - began < 10.0


def test_a_run_that_stops_early_leaves_no_thread(server, configured):
    def stop(trainer, iteration):
        assert server.arrived[1].wait(WAIT)
        trainer.should_stop = True

    server.hold(1)
    watch = Watch(server, stop)
    fit(configured(1), [watch])
    assert len(watch.versions) == 1 and not playing()


@pytest.mark.slow
def test_a_resumed_run_plays_its_first_set_anew_by_the_newest_weights(composed, server, configured, tmp_path, capsys):
    files = (f"paths.output_dir={tmp_path}/run", "callbacks.rollout_files.every=1")
    accident = "+callbacks.accident._target_=tests.training.test_training.Accident"
    config = configured(1, *files, accident, "+callbacks.accident.iteration=2")
    with pytest.raises(SystemExit):
        train.train(config)
    assert "an accident" in capsys.readouterr().err and not playing()
    server.events.clear()
    train.train(configured(1, *files, f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt"))
    rows = table(tmp_path / "run")
    assert [row["iteration"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["policy/rollout_staleness_max"] for row in rows[1:]] == ["0.0", "0.0", "1.0"]
    assert {draw for draw, _ in server.of("asked")} == {1, 2, "evaluation"}
    assert checkpoint(tmp_path / "run")["global_step"] == 2 * ITERATIONS and not playing()


def test_a_set_of_another_iteration_is_thrown_away_and_a_thread_has_a_tokenizer_of_its_own(random_policy, configured):
    ahead = Ahead(loop(instantiate(configured(1).data.engine, _convert_="all"), Talk))
    players, gate, empty = [], threading.Event(), Filled({}, 0)

    def play(rollout, policy):
        players.append(policy)
        assert gate.wait(WAIT)
        return empty

    ahead.begin(1, random_policy, play)
    gate.set()
    assert ahead.take(1, nobody) is empty and ahead.seconds > 0
    ahead.begin(2, random_policy, play)
    assert ahead.take(3, nobody) is None and ahead.take(2, nobody) is None and ahead.seconds == 0 and not playing()
    first, second = players
    assert first is second and first.model is random_policy.model and first.tokenizer is not random_policy.tokenizer


# ---- who does not ----------------------------------------------------------------------------------------------------


def test_an_engine_in_process_plays_in_time(composed):
    assert instantiate(composed("experiment=a2tgpo").data.module, _convert_="all").ahead is None


def test_demonstrations_are_not_played_ahead(composed):
    config = composed("data/engine=vllm", "data.engine.max_staleness=1", config_name="warm_up")
    assert instantiate(config.data.module, _convert_="all").ahead is None


@pytest.mark.parametrize("kind", ["ipc", "nccl"])
def test_weights_that_are_not_kept_are_refused(composed, kind):
    config = composed(*SERVED, f"data/engine/weight_sync={kind}", "data.engine.max_staleness=1")
    with pytest.raises(Exception, match=r"data\.engine") as caught:
        instantiate(config.data.engine, _convert_="all")
    assert "data.engine.max_staleness=1: expected 0, or data/engine/weight_sync=lora or reload" in str(
        caught.value.__cause__
    )
