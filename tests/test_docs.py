"""What the documents say is true: commands compose, choices exist, the tree is complete, the worked examples run."""

import importlib
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate

from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.rollouts.trajectory import Split, StopReason

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
TEXT = {name: (ROOT / name).read_text() for name in DOCUMENTS}
CONFIGURATION = TEXT["docs/configuration.md"]
EXAMPLE = re.compile(r"^`((?:src|configs)/\S+)`\n```(?:python|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON_COMMAND = re.compile(r"python src/(\w+)\.py((?: [^\s`#\\]+)*)")
MAKE_COMMAND = re.compile(r"(?:^|`)make ([a-z-]+)((?: [A-Z_]+=(?:\"[^\"]*\"|[^\s`]+))*)", re.MULTILINE)
CONFIGURED = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
COMMANDS = [
    command
    for name in DOCUMENTS
    if name != "CONTRIBUTING.md"
    for command in PYTHON_COMMAND.findall(TEXT[name])
    if command[0] in CONFIGURED
]
MAKE_COMMANDS = [match for name in DOCUMENTS for match in MAKE_COMMAND.findall(TEXT[name])]


def swept(arguments):
    """Each combination of overrides a command stands for: one, or with `-m` the product of the sweeps."""
    overrides = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in overrides
    ]
    return [list(combination) for combination in itertools.product(*values)]


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The worked examples of CONTRIBUTING.md in a folder of their own; returns the override that shows it to Hydra."""
    for path, text in EXAMPLE.findall(TEXT["CONTRIBUTING.md"]):
        assert not (ROOT / path).exists()
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.suffix == ".py":
            package = importlib.import_module(".".join(Path(path).parts[1:-1]))
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
    importlib.invalidate_caches()
    return f"hydra.searchpath=[file://{tmp_path}/configs]"


# ---- commands and tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "arguments"), sorted(set(COMMANDS)))
def test_command_composes(composed, examples, entry, arguments):
    for overrides in swept(arguments.split()):
        config = composed(*overrides, examples, config_name=entry)
        assert entry == "serve" or config.task_name == entry


def test_commands_name_entry_points():
    named = {entry for name in DOCUMENTS for entry, _ in PYTHON_COMMAND.findall(TEXT[name])}
    assert (
        named
        == {"train", "eval", "serve", "export"}
        == {path.stem for path in (ROOT / "src").glob("*.py")} - {"launch"}
    )


def test_contributing_commands_compose(composed, examples):
    commands = PYTHON_COMMAND.findall(TEXT["CONTRIBUTING.md"])
    assert len(commands) >= 4
    for entry, arguments in commands:
        overrides = [a for a in arguments.split() if "hydra.searchpath" not in a and not a.endswith("=mine")]
        composed(*overrides, examples, config_name=entry)


@pytest.mark.parametrize(("target", "variables"), sorted(set(MAKE_COMMANDS)))
def test_make_command_names_a_target(composed, target, variables):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert all(f"$({name})" in makefile for name in re.findall(r"(\w+)=", re.sub(r'"[^"]*"', "", variables)))
    overrides = re.search(r'ARGS="([^"]*)"', variables)
    if overrides and target in ("train", "eval"):
        composed("experiment=a2tgpo", *overrides[1].split(), config_name=target)


def test_configuration_lists_every_choice():
    rows = re.findall(r"^\| `((?:model|data)/\w+|data|trainer|logger)` \| (.*) \|$", CONFIGURATION, re.MULTILINE)
    listed = {group: set(re.findall(r"`(\w+)`", choices)) for group, choices in rows}
    folders = [path for top in ("model", "data") for path in (ROOT / "configs" / top).iterdir() if path.is_dir()]
    folders += [ROOT / "configs" / name for name in ("data", "trainer", "logger")]
    on_disk = {
        folder.relative_to(ROOT / "configs").as_posix(): {file.stem for file in folder.glob("*.yaml")}
        for folder in folders
    }
    assert listed == on_disk


def test_configuration_lists_every_experiment():
    listed = set(re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|.*\|$", CONFIGURATION, re.MULTILINE))
    assert listed == {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}


def test_readme_is_short():
    assert len(TEXT["README.md"].splitlines()) <= 220


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_placeholder_is_left(name):
    assert re.findall(r"\{\{.*?\}\}", TEXT[name]) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", TEXT[name]):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


def test_architecture_draws_every_file():
    block = re.search(r"```\n(src/a2tgpo/\n.*?)```", TEXT["docs/architecture.md"], re.DOTALL)[1]
    drawn, folders = set(), []
    for line in block.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders = folders[: len(indent) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            drawn.add("".join(folders) + name)
    package = ROOT / "src" / "a2tgpo"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert drawn == files | {"src/a2tgpo/__init__.py"}


# ---- worked examples -------------------------------------------------------------------------------------------------


def test_readme_and_contributing_show_the_same_strategy():
    readme, contributing = (EXAMPLE.findall(TEXT[name]) for name in ("README.md", "CONTRIBUTING.md"))
    assert len(readme) == 2 and len(contributing) == 10
    assert set(readme) <= set(contributing)


def test_strategy_example_runs(composed, examples):
    config = composed("experiment=a2tgpo", "model/normalizer=turn_median", "model.normalizer.scale=4", examples)
    normalizer = instantiate(config.model.credit).normalizer
    reward = torch.tensor([[1.0, 5.0], [2.0, 9.0], [6.0, torch.nan], [8.0, 3.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    # Prompt 0: medians 2 and 7. Prompt 1 stands alone.
    expected = [[-4.0, -8.0], [0.0, 8.0], [16.0, 0.0], [0.0, 0.0]]
    assert normalizer(reward, mask, torch.tensor([0, 0, 0, 1])).tolist() == expected


def play(data, policy, script):
    """One episode of the first training task, acted by `script`."""
    rollout = replace(data.rollout, engine=ScriptedEngine(lambda key: script))
    return rollout.run(policy, [(0, data.tasks.split(Split.TRAIN)[0])], 1, (0,), greedy=True)[0]


def test_tool_example_runs(composed, examples):
    config = composed("experiment=a2tgpo", "data/environment=search_and_years", examples)
    task = instantiate(config.data.tasks).split(Split.TRAIN)[0]
    game = instantiate(config.data.environment, _convert_="all")(task)
    assert game.max_calls == 8 and game.stop_strings == ("</search>", "</years_between>", "</answer>")
    assert task.evidence[0] in game.step(search_action(task.reference_calls[0])).observation
    span = game.step("<years_between> 1912 and 1954</years_between>").observation
    failed = game.step("<years_between> 1912</years_between>").observation
    assert span == "<result> 42</result>"
    assert failed == "<result> The years_between failed: it needs two years, such as 1912 and 1954.</result>"
    assert game.step(answer_action(task.answers[0])).stop is StopReason.ANSWERED
    assert game.finish(StopReason.ANSWERED)["calls"] == 3.0


def test_environment_example_runs(composed, examples):
    config = composed("experiment=a2tgpo", "data/environment=hints", examples)
    task = instantiate(config.data.tasks).split(Split.TRAIN)[0]
    environment = instantiate(config.data.environment, _convert_="all")
    assert config.model.module.answer_wrapper == ["<think> done</think><answer> ", "</answer>"]
    right, searches = environment(task), [search_action("anything")] * len(task.evidence)
    states = [right.state()]
    for search, passage in zip(searches, task.evidence, strict=True):
        result = right.step(search)
        assert passage in result.observation and result.useful and result.stop is None
        states.append(right.state())
    assert len({*states}) == len(states) and right.deterministic
    assert right.step(answer_action(task.answers[0])).stop is StopReason.ANSWERED
    metrics = {"success": 1.0, "em": 1.0, "f1": 1.0, "hints": float(len(searches))}
    assert right.finish(StopReason.ANSWERED) == metrics
    too_many = environment(task)
    assert [too_many.step(search).stop for search in [*searches, "<search> more</search>"]][-1] is StopReason.MAX_TURNS
    assert environment(task).step("nonsense</answer>").stop is StopReason.INVALID_ACTION


def test_retriever_example_runs(composed, examples, random_policy):
    config = composed("experiment=a2tgpo", "data/retriever=overlap", examples)
    data = instantiate(config.data.module, _convert_="all")
    task = data.tasks.split(Split.TRAIN)[0]
    trajectory = play(data, random_policy, [search_action(task.evidence[0].rstrip(".")), answer_action("x")])
    assert task.evidence[0] in trajectory.turns[0].observation_text
    assert trajectory.turns[0].useful
    assert instantiate(config.data.retriever).search("qqq", 2, task.corpus) == []


def test_engine_example_runs(composed, examples, random_policy):
    data = instantiate(composed("experiment=a2tgpo", "data/engine=uniform", examples).data.module, _convert_="all")
    prompts = list(enumerate(data.draw_tasks(0)[:2]))
    first, again = (data.rollout.run(random_policy, prompts, 3, (0, 0), greedy=False) for _ in range(2))
    assert first == again and len(first) == 6
    assert len({trajectory.turns[0].action_ids for trajectory in first}) == 6
    probabilities = {p for trajectory in first for turn in trajectory.turns for p in turn.action_logprobs}
    assert probabilities == {-math.log(len(random_policy.tokenizer))}
