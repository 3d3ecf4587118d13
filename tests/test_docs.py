"""What the documents say is true: commands compose; choices, keys, paths and names exist; trees and tables are
complete; the worked examples run."""

import ast
import importlib
import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from a2tgpo.embedded.demonstrations import answer_action, search_action
from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.rollouts.trajectory import Split, StopReason
from a2tgpo.scoring.score import score
from tests.test_import_direction import FLOORS

ROOT = Path(__file__).resolve().parents[1]
MADE_BY_SCRIPTS = {"docs/evidence/tables.md"}
PAGES = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")} - MADE_BY_SCRIPTS
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(PAGES))
TEXT = {name: (ROOT / name).read_text() for name in DOCUMENTS}
CONFIGURATION = TEXT["docs/configuration.md"]
EXAMPLE = re.compile(r"^`((?:src|configs)/\S+)`\n```(?:python|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON_COMMAND = re.compile(r"(?:python|torchrun[^\n`]*?) src/(\w+)\.py((?: [^\s`#'&]+)*)")
MAKE_COMMAND = re.compile(r"(?:^|`)make ([a-z-]+)((?: [A-Z_]+=(?:\"[^\"]*\"|[^\s`]+))*)", re.MULTILINE)
CONFIGURED = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
VARIABLES = {"$SLURM_NNODES": "2", "$SLURM_NTASKS_PER_NODE": "8"}


def commands_in(name):
    """(entry point, arguments) of every command of a document, on however many lines."""
    text = re.sub(r" *\\\n *", " ", TEXT[name])
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    return PYTHON_COMMAND.findall(text)


COMMANDS = [
    command
    for name in DOCUMENTS
    if name != "CONTRIBUTING.md"
    for command in commands_in(name)
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
    for overrides in swept([word for word in arguments.split() if not word.startswith("like=")]):
        config = composed(*overrides, examples, config_name=entry)
        assert entry == "serve" or config.task_name == entry


def test_commands_name_entry_points():
    named = {entry for name in DOCUMENTS for entry, _ in commands_in(name)}
    assert (
        named
        == {"train", "eval", "serve", "export", "warm_up", "check", "credit", "view"}
        == {path.stem for path in (ROOT / "src").glob("*.py")} - {"launch", "run_directories", "error_lines"}
    )


def test_contributing_commands_compose(composed, examples):
    commands = commands_in("CONTRIBUTING.md")
    assert len(commands) >= 8
    for entry, arguments in commands:
        composed(*arguments.split(), examples, config_name=entry)


def test_commands_of_several_machines_are_seen():
    arguments = [arguments for _, arguments in commands_in("docs/distributed.md")]
    assert sum("trainer.num_nodes=2" in a for a in arguments) == 6


@pytest.mark.parametrize(("target", "variables"), sorted(set(MAKE_COMMANDS)))
def test_make_command_names_a_target(composed, target, variables):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert all(f"$({name})" in makefile for name in re.findall(r"(\w+)=", re.sub(r'"[^"]*"', "", variables)))
    overrides = re.search(r'ARGS="([^"]*)"', variables)
    if overrides and target in ("train", "eval"):
        composed("experiment=a2tgpo", *overrides[1].split(), config_name=target)


@pytest.mark.parametrize("target", re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
def test_make_knows_all_that_a_target_needs(target):
    made = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_contributing_lists_every_target():
    cells = re.findall(r"^\| (`make .*?) \|", TEXT["CONTRIBUTING.md"], re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`make ([a-z-]+)`", "".join(cells))) == sorted(targets)


def test_extras_leave_the_checkout_what_runs():
    folders = ("src", "scripts", "configs", "examples", "benchmarks", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    texts = [path.read_text() for path in files if path.suffix in (".py", ".yaml", ".md")]
    said = [found for text in texts for found in re.findall(r"pip install .*?'\.\[", text)]
    assert len(said) >= 8 and {*said} == {"pip install --editable '.["}


def test_real_facts_are_made_where_their_data_looks(composed):
    made = re.search(r"^python scripts/make_facts\.py --output (\S+)", TEXT["docs/models_and_data.md"], re.MULTILINE)
    assert composed("data=facts").data.facts_dir == str(ROOT / made[1])


def test_configuration_lists_every_choice():
    rows = re.findall(r"^\| `((?:model|data)[\w/]+|data|trainer|logger)` \| (.*) \|$", CONFIGURATION, re.MULTILINE)
    listed = {group: set(re.findall(r"`(\w+)`", choices.partition(";")[0])) for group, choices in rows}
    folders = [path for top in ("model", "data") for path in (ROOT / "configs" / top).rglob("*") if path.is_dir()]
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
def test_prose_has_short_lines(name):
    prose = re.sub(r"^```.*?^```$", "", TEXT[name], flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^\|.*$", "", prose, flags=re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 140] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", TEXT[name]):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-").replace("`", "") for heading in headings}, link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_exist(name):
    roots = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    given = {path for path, _ in EXAMPLE.findall(TEXT["CONTRIBUTING.md"])}
    missing = {
        path
        for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", TEXT[name])
        if not (ROOT / path).exists() and path not in given and not path.startswith("logs/")
    }
    assert missing == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_choices_exist(name):
    given = {path for path, _ in EXAMPLE.findall(TEXT["CONTRIBUTING.md"])}
    for group, choice in re.findall(r"`(?:[^`\n]* )?((?:data|model)(?:/\w+)*|trainer|logger|debug)=(\w+)", TEXT[name]):
        path = f"configs/{group}/{choice}.yaml"
        assert (ROOT / path).is_file() or path in given, path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_keys_exist(name):
    keys = set(re.findall(r"`[^`\n]*?\b((?:data|model|trainer|callbacks)(?:\.\w+)+)", TEXT[name]))
    examples = {Path(path).parent: text for path, text in EXAMPLE.findall(TEXT["CONTRIBUTING.md"]) if "configs" in path}
    files = (ROOT / "configs").rglob("*.yaml")
    yamls = [(path.relative_to(ROOT / "configs").parent, path.read_text()) for path in files]
    yamls += [(folder.relative_to("configs"), text) for folder, text in examples.items()]
    assert {key for key in keys if not any(holds(folder, text, key) for folder, text in yamls)} == set()


def holds(folder, text, key):
    """Does a yaml in this folder set this key, or choose a part for it?"""
    package = () if "@package _global_" in text else folder.parts
    *parents, last = key.split(".")
    if (ROOT / "configs" / Path(*parents, last)).is_dir():
        return True
    if tuple(parents[: len(package)]) != package:
        return False
    node = OmegaConf.to_container(OmegaConf.create(text))
    for parent in parents[len(package) :]:
        node = node.get(parent)
        if not isinstance(node, dict):
            return False
    return last in node


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_of_the_package_exist(name):
    names = re.findall(r"`(a2tgpo(?:\.\w+)+)`", TEXT[name])
    names += [".".join(pair) for pair in re.findall(r"from (a2tgpo[\w.]*) import (\w+)", TEXT[name])]
    given = {".".join(Path(path).with_suffix("").parts[1:]) for path, _ in EXAMPLE.findall(TEXT["CONTRIBUTING.md"])}
    for dotted in names:
        if dotted.rpartition(".")[0] not in given:
            assert defined(dotted), dotted


def defined(dotted):
    """Is it a module, or a name that a module defines? What is optional is not imported."""
    path = ROOT / "src" / Path(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    tree = ast.parse(path.parent.with_suffix(".py").read_text())
    assigned = {target.id for n in tree.body if isinstance(n, ast.Assign) for target in n.targets}
    return path.name in assigned | {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}


def test_sentences_of_import_direction_are_tests():
    section = re.search(r"### Import direction\n.*?\n## ", TEXT["docs/architecture.md"], re.DOTALL)[0]
    sentences = [
        " ".join(item.split()) for item in re.findall(r"^- (.*?)(?=^- |^\n)", section, re.MULTILINE | re.DOTALL)
    ]
    assert len(sentences) >= 10
    claims = {"_".join(re.findall(r"\w+", re.split(r"[:.]", sentence)[0].lower())) for sentence in sentences}
    tests = set(re.findall(r"^def test_(\w+)", (ROOT / "tests" / "test_import_direction.py").read_text(), re.MULTILINE))
    assert claims - tests == set()


def test_floors_of_import_direction_are_those_that_are_tested():
    block = re.search(r"### Import direction\n\n```\n(.*?)```", TEXT["docs/architecture.md"], re.DOTALL)[1]
    drawn = [set(re.findall(r"\w+", line)) for line in block.splitlines() if "src/" not in line]
    assert drawn == list(FLOORS)


def test_contributing_lists_every_page_of_protocols():
    listed = set(re.findall(r"`(src/\S+/protocols\.py)`", TEXT["CONTRIBUTING.md"]))
    assert listed == {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("protocols.py")}


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
    kinds = (".py", ".js", ".css", ".html")
    found = [path for path in package.rglob("*") if path.suffix in kinds and path.name != "__init__.py"]
    files = {path.relative_to(ROOT).as_posix() for path in found}
    assert drawn == files | {"src/a2tgpo/__init__.py"}


# ---- worked examples -------------------------------------------------------------------------------------------------


def test_readme_and_contributing_show_the_same_strategy():
    readme, contributing = (EXAMPLE.findall(TEXT[name]) for name in ("README.md", "CONTRIBUTING.md"))
    assert len(readme) == 2 and len(contributing) == 14
    assert set(readme) <= set(contributing)


def test_promises_name_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT["docs/robustness.md"])
    assert len(named) > 20
    for path, test in named:
        assert (f"def {test}(" if test else "def test_") in (ROOT / path).read_text(), (path, test)


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_examples_keep_the_style(examples, tmp_path, arguments):
    ruff = [sys.executable, "-m", "ruff", *arguments, "--config", ROOT / "pyproject.toml", tmp_path / "src"]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_signal_example_runs(composed, examples, random_policy):
    config = composed("experiment=a2tgpo", "model/signal=novelty", examples)
    data, method = (instantiate(x, _convert_="all") for x in (config.data.module, config.model.method))
    task = data.tasks.split(Split.TRAIN)[0]
    twice = [search_action(task.reference_calls[0])] * 2
    trajectories = [play(data, random_policy, [*twice[:n], answer_action("x")]) for n in (1, 2)]
    scored = score(random_policy, trajectories, method.signal.answers, tuple(config.data.dialect.answer_wrapper), 4096)
    credit = method.assign(scored.observed)
    assert credit.gain.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]  # the same search again brings no new word
    assert credit.gain_mask.tolist() == [[True, False, False], [True, True, False]]
    assert not credit.belief.any() and torch.isfinite(credit.advantage).all()


def test_reward_example_runs(composed, examples, random_policy):
    config = composed("experiment=a2tgpo", "data/reward=shortest_success", "data.reward.bonus=0.2", examples)
    data = instantiate(config.data.module, _convert_="all")
    task = data.tasks.split(Split.TRAIN)[0]
    search, right = search_action(task.reference_calls[0]), answer_action(task.answers[0])
    scripts = [[right], [search, right], [answer_action("x")]]
    assert [play(data, random_policy, script).outcome for script in scripts] == [1.2, 1.2, 0.0]
    group = [replace(play(data, random_policy, script), group=0, sample=i) for i, script in enumerate(scripts)]
    assert data.rollout.reward(group) == [1.2, 1.0, 0.0]
    assert data.rollout.reward([replace(t, group=t.sample) for t in group]) == [1.2, 1.2, 0.0]


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
    right, searches = environment(task), [search_action("director of anything")] * len(task.evidence)
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
