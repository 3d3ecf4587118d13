"""What is written is read by the packages of the formats themselves; ATIF comes back."""

import json

import pytest

from a2tgpo.traces.from_run import read_traces
from a2tgpo.traces.trace import require_package
from tests.helpers.traced_run import HOSTILE, exported, foreign, imported, leave_lines, leave_spoken_run, rows
from tests.helpers.viewed_run import leave_viewed_run, older, turn
from tests.traces.test_export import TAGS

packages = pytest.mark.traces


@pytest.fixture
def lines():
    """A group with calls, hostile texts, a turn that is shared and a bound that is infinite."""
    made = older(2)
    made[0] |= {"turns": [turn(HOSTILE, HOSTILE), turn(HOSTILE)], "clip_high": [float("inf")] * 2}
    made[1] |= {"turns": list(TAGS), "n_shared": 1}
    return made


@pytest.fixture
def run(tmp_path, lines, composed):
    """They as a run whose dialect is known."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(composed("experiment=a2tgpo"), resolve=True)
    data = {name: config["data"][name] for name in ("dialect", "environment")}
    return leave_spoken_run(tmp_path / "run", lines, data)


def test_what_is_not_installed_is_one_error():
    with pytest.raises(
        ValueError, match=r"^nothing-such: not installed \(No module named 'nothing_such'\); expected it"
    ):
        require_package("nothing_such", "nothing-such")


@packages
def test_atif_is_what_its_package_says(run, tmp_path, lines):
    from atif import Trajectory

    path = exported(run, "atif", tmp_path / "atif.jsonl")
    first, second = (Trajectory.model_validate_json(line) for line in path.read_text().split("\n") if line)
    assert first.schema_version == "ATIF-v1.8" and [s.source for s in first.steps] == ["user", "agent", "agent"]
    assert first.steps[1].message == HOSTILE and first.steps[1].observation.results[0].content == HOSTILE
    _, shared, own, last = second.steps
    assert shared.tool_calls[0].arguments == {"query": "founder of Kinu"} and shared.is_copied_context is True
    assert shared.observation.results[0].content == "Nore founded it." and own.is_copied_context is None
    assert own.metrics.completion_token_ids == [1] and own.metrics.logprobs == [-0.5]
    assert last.extra["advantage"] == lines[1]["advantage"][2] and first.steps[2].extra["clip_high"] == "Infinity"
    assert second.extra["answers"] == ["Nore"] and second.final_metrics.total_completion_tokens == 3


@packages
def test_atif_comes_back(run, tmp_path):
    back = imported(exported(run, "atif", tmp_path / "atif.jsonl"), tmp_path / "back", form="atif")
    for own, theirs in zip(rows(run)["000001-rank0.jsonl"], rows(back)["000001-rank0.jsonl"], strict=True):
        assert {key: theirs[key] for key in own} == own


@packages
def test_atif_of_others_becomes_a_run(tmp_path):
    steps = [
        {"source": "user", "message": "Who is the king of Kinu?"},
        {
            "source": "agent",
            "message": "",
            "tool_calls": [{"tool_call_id": "a", "function_name": "search", "arguments": {"query": "Kinu"}}],
            "observation": {"results": [{"source_call_id": "a", "content": "It is Nore."}]},
        },
        {"source": "agent", "message": "Nore"},
    ]
    document = {
        "schema_version": "ATIF-v1.8",
        "agent": {"name": "other", "version": "1"},
        "steps": [{"step_id": n, **step} for n, step in enumerate(steps, 1)],
        "extra": {"answers": ["Nore"], "outcome": 1.0},
    }
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(document, indent=2))
    (row,) = rows(imported(path, tmp_path / "run", form="atif"))["000001-rank0.jsonl"]
    assert row["question"] == "Who is the king of Kinu?" and row["turns"][0]["observation"] == "It is Nore."
    assert row["turns"][0]["action"].startswith("<tool_call>") and row["turns"][1]["action"] == "Nore"


@packages
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [{"step_id": 1, "source": "wizard", "message": ""}]}, r"steps\.0\.source: .*; expected ATIF"),
        ({"steps": [{"step_id": 2, "source": "user", "message": ""}]}, r"trajectory: .*sequential.*; expected ATIF"),
        ({"steps": [{"step_id": 1, "source": "user", "message": "?"}]}, r"messages of steps: no message of the assis"),
        ({"extra": {"outcome": 1.0}}, r"extra\.answers: missing"),
        ({"extra": None}, r"extra\.answers: missing"),
        ({"mine": 1}, r"mine: Extra inputs are not permitted; expected ATIF"),
    ],
)
def test_bad_atif_names_file_line_and_field(tmp_path, change, message):
    steps = [{"step_id": 1, "source": "user", "message": "?"}, {"step_id": 2, "source": "agent", "message": "!"}]
    document = {"schema_version": "ATIF-v1.8", "agent": {"name": "other", "version": "1"}, "steps": steps}
    document |= {"extra": {"answers": ["Nore"], "outcome": 1.0}} | change
    file = leave_lines(tmp_path / "in.jsonl", document)
    with pytest.raises(ValueError, match=rf"^{file}, line 1: {message}"):
        imported(file, tmp_path / "run", form="atif")
    with pytest.raises(ValueError, match=r"line 1: "):
        imported(leave_lines(tmp_path / "chat.jsonl", foreign()), tmp_path / "run", form="atif")


@packages
@pytest.mark.parametrize("suffix", [".eval", ".json"])
def test_inspect_opens_its_log(run, tmp_path, suffix, lines):
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(exported(run, "inspect", tmp_path / f"log{suffix}")))
    assert log.status == "success" and [(s.id, s.epoch) for s in log.samples] == [("1-0-0", 1), ("1-0-0", 2)]
    assert [score.name for score in log.results.scores] == ["success", "outcome"]
    assert log.results.scores[1].metrics["mean"].value == 0.5
    first, second = log.samples
    assert (second.input, second.target) == ("Who rules Kinu?", ["Nore"])
    assert second.scores["outcome"].value == 1.0 and second.metadata["belief"] == lines[1]["belief"]
    assert [m.role for m in second.messages] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    said = [m for m in second.messages if m.role == "assistant"]
    assert (
        said[0].tool_calls[0].arguments == {"query": "founder of Kinu"}
        and second.messages[2].text == "Nore founded it."
    )
    assert [m.metadata["advantage"] for m in said] == lines[1]["advantage"]
    assert first.messages[1].text == HOSTILE and first.messages[2].text == HOSTILE
    assert not list(tmp_path.glob("*.part*"))


@packages
def test_inspect_knows_its_logs_by_their_names(run, tmp_path):
    with pytest.raises(ValueError, match=r"log\.txt: expected a name that ends in \.eval or \.json"):
        exported(run, "inspect", tmp_path / "log.txt")


@packages
def test_verifiers_reads_its_traces(run, tmp_path, lines):
    from verifiers.v1.trace import WireTrace
    from verifiers.v1.utils.trace_store import read_episodes

    exported(run, "verifiers", tmp_path / "out" / "traces.jsonl")
    first, second = (episode.traces[0] for episode in read_episodes(tmp_path / "out", WireTrace))
    assert (second.reward, second.metrics, second.stop_condition) == (1.0, {"success": 1.0}, "answered")
    assert second.task.data.model_extra["answers"] == ["Nore"] and second.num_turns == 2  # the first is shared
    (branch,) = second.branches
    recorded = [i for t in TAGS for i in (*t["action_ids"], *t["observation_ids"])]
    assert branch.token_ids == [*lines[1]["prompt_ids"], *recorded]
    advantages = [0.0, 0.0, 0.0, 0.0, lines[1]["advantage"][1], 0.0, lines[1]["advantage"][2]]
    assert branch.advantages == advantages
    assert branch.logprobs == [0.0, 0.0, 0.0, 0.0, -0.5, 0.0, -0.5]
    assert [t["gain"] for t in second.info["turns"]] == lines[1]["gain"]
    assert first.messages[1].content == HOSTILE and first.messages[2].content == HOSTILE


@packages
def test_all_formats_take_a_run_without_a_dialect(tmp_path, lines):
    run = leave_viewed_run(tmp_path / "plain", {"000001-rank0": lines})
    assert len(read_traces(run, None)) == 2
    for form, name in {"atif": "a.jsonl", "inspect": "i.eval", "verifiers": "traces.jsonl"}.items():
        assert exported(run, form, tmp_path / name).stat().st_size > 0
