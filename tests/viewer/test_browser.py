"""The page in a real Chromium: numbers, clicks, keys, links, hostile texts; nothing is asked of the network."""

import shutil
from urllib.parse import parse_qs

import pytest

from a2tgpo.viewer.groups import CREDIT
from a2tgpo.viewer.page import write_page
from a2tgpo.viewer.run_data import read_run
from tests.helpers.viewed_run import GROUP, group, leave_viewed_run, older

pytestmark = pytest.mark.browser
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>\u202eback"
LONG = "x" * 100_000


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium on the path; expected Debian's (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """`opened({stem: lines, …})`: the page of such a run. In the end, nothing was asked for and nothing was wrong."""
    asked, wrong, dialogs = [], [], []
    context = chromium.new_context(viewport={"width": 1280, "height": 900})

    def open_page(files, fragment="", width=1280, forks=None, other=None, table=None):
        path = tmp_path / "run" / "view.html"
        leave_viewed_run(path.parent, files, forks)
        if table:
            (path.parent / "metrics.csv").write_text(table)
        write_page(read_run(path.parent, other=other), path)
        tab = context.new_page()
        tab.set_viewport_size({"width": width, "height": 900})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        tab.goto(f"{path.as_uri()}{fragment}")
        return tab

    yield open_page
    context.close()
    assert wrong == [] and dialogs == []
    assert asked and all(url.startswith("file://") and "/view.html" in url for url in asked)


def two_groups():
    """A group that is half solved and one that fails, in two iterations."""
    failed = group(group=1, outcome=0.0, metrics={"success": 0.0}, question="Who lost Sivo?")
    return {"000001-rank0": [*GROUP, *failed], "000002-rank0": GROUP}


def steps(tab):
    """The arithmetic that is shown: value by name."""
    rows = tab.locator("#arithmetic tr").all()
    names = [row.locator("th").evaluate("cell => cell.firstChild.textContent") for row in rows]
    return dict(zip(names, [row.locator("td").inner_text() for row in rows], strict=True))


def place(tab):
    """What the address names; asked of the page, as the browser's own news of it may come late."""
    return {key: value[0] for key, value in parse_qs(tab.evaluate("location.hash.slice(1)")).items()}


def cell(tab, trajectory, turn):
    return tab.locator("#grid tbody tr").nth(trajectory).locator("button").nth(turn)


def test_a_click_opens_the_turn_whose_numbers_are_those_of_the_file(opened):
    tab = opened(two_groups())
    names = ("gain ig", None, "normalized gain îg", "advantage Â", "turn credit")
    for row, written in enumerate(GROUP):
        for t, turn in enumerate(written["turns"]):
            cell(tab, row, t).click()
            shown = steps(tab)
            for name, key in zip(names, CREDIT, strict=False):
                if name and (key not in ("gain", "normalized_gain") or written["has_gain"][t]):
                    assert float(shown[name]) == pytest.approx(written[key][t], rel=5e-5)
            assert float(shown["clip bound above"]) == pytest.approx(1 + written["clip_high"][t], rel=5e-5)
            assert tab.locator("article.chosen pre").first.inner_text() == turn["action"]
    assert steps(tab)["no gain"] == ""
    cell(tab, 1, 0).click()
    shown = steps(tab)
    assert (shown["belief before"], shown["belief after"]) == ("0.05", "0.35")
    assert (shown["mean of turn group"], shown["σ of turn group"]) == ("0.2", "0.1")
    assert (shown["still to come D"], shown["terms"], shown["outcome R̂"]) == ("1", "2", "1")


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("gain", "+0.10"), ("normalized_gain", "-1.00"), ("advantage", "-1.50"), ("clip_scale", "0.86")],
)
def test_cells_show_what_is_chosen(opened, measure, expected):
    tab = opened(two_groups())
    tab.select_option("#measure", measure)
    assert cell(tab, 0, 0).inner_text().split()[-1] == expected
    assert "179, 88, 6" in cell(tab, 0, 0).get_attribute("style") or measure == "gain"


def test_the_ratio_after_the_last_step_and_whether_it_is_clipped(opened):
    tab = opened(two_groups())
    cell(tab, 0, 0).click()
    shown = steps(tab)
    assert (shown["ratio after the last step"], shown["clipped"]) == ("0.98413", "yes")
    cell(tab, 1, 0).click()
    assert (steps(tab)["ratio after the last step"], steps(tab)["clipped"]) == ("1", "no")
    tab.select_option("#measure", "ratio")
    assert cell(tab, 0, 0).inner_text().split() == ["▼", "○", "-0.02", "clipped"]
    assert tab.locator("#legend").inner_text().split() == ["-0.02", "+0.02"]
    assert (
        cell(tab, 0, 0)
        .get_attribute("aria-label")
        .startswith("trajectory 0, turn 1: ratio − 1 after the last step -0.015873 clipped")
    )


def test_a_ratio_that_moved_against_its_advantage_is_named(opened):
    lines = group()
    lines[0]["ratio"], lines[1]["ratio"] = [1.25, 1.000009], [0.75, 1.25, 0.99998]
    tab = opened({"000001-rank0": lines})
    said = {}
    for row, turns in ((0, 2), (1, 3)):
        for t in range(turns):
            cell(tab, row, t).click()
            said[row, t] = tab.locator("#arithmetic p").inner_text()
    assert said[0, 0].startswith("The turn is pushed less likely: turn credit pushes down by 0.5, outcome pushes down")
    assert "Yet the update left it more likely, ratio − 1 is 0.25: other turns and tokens moved it too." in said[0, 0]
    assert "Yet the update left it less likely, ratio − 1 is -0.25" in said[1, 0]
    assert [place for place, words in said.items() if "Yet the update" in words] == [(0, 0), (1, 0), (1, 2)]


def test_ratios_near_one_are_told_apart_and_the_mark_stays_with_the_lowest_advantage(opened):
    lines = group(ratio=[1.000468, 0.9996, 1.0])
    lines[0]["ratio"] = [1.000468, 0.9996]
    tab = opened({"000001-rank0": lines})
    tab.select_option("#measure", "ratio")
    assert [cell(tab, 0, t).inner_text().split() for t in (0, 1)] == [["▼", "○", "+5e-4", "clipped"], ["-4e-4"]]
    assert cell(tab, 1, 2).inner_text() == "0.00"
    assert tab.locator("#legend").inner_text().split() == ["-5e-4", "+5e-4"]
    cell(tab, 0, 0).click()
    assert steps(tab)["ratio after the last step"] == "1.0005"


def test_tokens_are_shaded_by_their_change_and_say_it(opened):
    tab = opened(two_groups(), "#iteration=2&rank=0&group=0&trajectory=0&turn=1")
    tokens = tab.locator("article.chosen .token")
    assert tokens.all_inner_texts() == ["ask ", "for Sivo"]
    assert "rgba(179, 88, 6, 0.600)" in tokens.nth(0).get_attribute("style")
    assert "rgba(33, 102, 172, 0.120)" in tokens.nth(1).get_attribute("style")
    said = tab.locator("article.chosen output")
    tokens.nth(1).hover()
    assert said.inner_text() == "token 2 of 2, “for Sivo”: 0.008 nats, 1.008 times as likely"
    tokens.nth(0).focus()
    assert said.inner_text().startswith("token 1 of 2, “ask ”: -0.04 nats")
    tab.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("token 2 of 2") and place(tab)["turn"] == "1"
    assert tokens.nth(1).get_attribute("aria-label") == "for Sivo, 0.008 nats"
    assert tab.locator("article:not(.chosen) .token").count() == 0


def test_a_text_that_is_not_its_tokens_is_not_shaded(opened):
    lines = group()
    lines[0]["token_lengths"][0] = [4, 7]
    tab = opened({"000001-rank0": lines}, "#iteration=1&rank=0&group=0&trajectory=0&turn=1")
    assert tab.locator(".token").count() == 0
    assert tab.locator("article.chosen pre").first.inner_text() == "ask for Sivo"


def test_what_speaks_against_the_turns_of_a_failed_trajectory(opened):
    tab = opened(two_groups(), "#iteration=2&rank=0&group=0&trajectory=0&turn=2")
    assert tab.locator("#blame").inner_text() == (
        "What speaks against its turns (the credit first): lowest advantage, -1.5: turn 1 · "
        "call not useful (no new evidence): turn 1"
    )
    tab.locator("#blame button").first.click()
    assert place(tab)["turn"] == "1"
    cell(tab, 1, 0).click()
    assert tab.locator("#blame").count() == 0


def test_where_nothing_tells_the_turns_apart_that_is_said(opened):
    lines = group()
    lines[0] |= {"advantage": [-1.0, -1.0], "belief": [0.35, 0.05], "metrics": {"success": 0.0, "early_answer": 1.0}}
    tab = opened({"000001-rank0": lines}, "#iteration=1&rank=0&group=0&trajectory=0&turn=1")
    assert tab.locator("#blame").inner_text() == (
        "What speaks against its turns (the credit first): nothing in the credit, which is the same for all · "
        "belief fell by 0.3: turn 1 · call not useful (no new evidence): turn 1 · "
        "answered before all was found that it takes: turn 2"
    )


def test_a_credit_that_goes_against_the_usefulness_is_named(opened):
    lines = group()
    lines[0]["advantage"][0] = 0.5
    tab = opened({"000001-rank0": lines}, "#iteration=1&rank=0&group=0&trajectory=0&turn=1")
    assert "Yet its call was not useful (○)." in tab.locator("#arithmetic p").inner_text()


def test_forks_stand_beside_the_credit(opened, tmp_path):
    forked = [
        one | {"oracle_advantage": [value] + [0.0] * (n - 1), "oracle_error": [0.0625] * n, "value": [0.5] * n}
        for one, value in zip(group(), (-0.25, 0.125), strict=True)
        for n in [len(one["turns"])]
    ]
    tab = opened(two_groups(), "#iteration=2+forks&rank=0&group=0&trajectory=0&turn=1", forks={"000002-rank0": forked})
    shown = steps(tab)
    assert (shown["value before"], shown["oracle A*"], shown["error of A*"]) == ("0.5", "-0.25", "0.0625")
    assert cell(tab, 0, 0).inner_text().split() == ["▼", "○", "-1.50", "|", "-0.25"]
    assert "Forks: A* -0.25 ± 0.0625 agrees with the sign of Â." in tab.locator("#arithmetic p").inner_text()
    assert "lowest A* that is two errors below 0, -0.25: turn 1" in tab.locator("#blame").inner_text()
    tab.select_option("#measure", "oracle")
    assert cell(tab, 1, 0).inner_text().split() == ["●", "+0.13", "±", "0.06"]
    assert tab.locator("#sampled").inner_text().endswith("played and forked by the policy behind iteration 2")
    tab.select_option("#iteration", "1")
    assert "oracle A*" not in steps(tab) and place(tab)["iteration"] == "1"


def test_the_turn_that_lost_most_by_forks_comes_first_and_is_opened(opened):
    lines = group()
    tell = {"oracle_advantage": [-0.125, -0.25], "oracle_error": [0.03125, 0.0625], "value": [0.375, 0.25]}
    tab = opened(two_groups(), forks={"000002-rank0": [lines[0] | tell]})
    tab.select_option("#iteration", "2 forks")
    assert place(tab)["turn"] == "2"
    assert tab.locator("#blame").inner_text() == (
        "What speaks against its turns (forks first, then the credit): "
        "lowest A* that is two errors below 0, -0.25: turn 2 · lowest advantage, -1.5: turn 1 · "
        "call not useful (no new evidence): turn 1"
    )
    assert cell(tab, 0, 0).inner_text().startswith("▼")


def test_turns_whose_credit_contradicts_are_marked_and_their_prompts_found(opened):
    lines = group(group=1, question="Who lost Sivo?")
    lines[0]["advantage"][0] = 0.5
    files = {"000001-rank0": [*GROUP, *lines]}
    forked = group()
    for one, told in zip(forked, ([0.25, 0.0], [0.125, -0.125, 0.0]), strict=True):
        one |= {"oracle_advantage": told, "oracle_error": [0.0625] * len(told), "value": [0.5] * len(told)}
    tab = opened(files, "#iteration=1&rank=0&group=1&trajectory=0&turn=1", forks={"000001-rank0": forked})
    marked = "all => all.filter(b => b.textContent.startsWith('≠')).map(b => b.getAttribute('aria-label'))"
    (without,) = tab.locator("#grid button").evaluate_all(marked)
    assert without.startswith("trajectory 0, turn 1") and without.endswith("Â goes against the usefulness")
    tab.select_option("#filter", "contradicts")
    assert tab.locator("#prompt-rows button").all_inner_texts() == ["Who lost Sivo?"]
    tab.select_option("#iteration", "1 forks")
    (beyond,) = tab.locator("#grid button").evaluate_all(marked)
    assert beyond.startswith("trajectory 0, turn 1") and beyond.endswith("Â goes against A*")
    assert "± 0.0625 contradicts the sign of Â" in tab.locator("#arithmetic p").inner_text()


def test_a_colouring_without_values_in_a_set_says_which_set_has_them(opened):
    forked = [{key: value for key, value in one.items() if key not in ("ratio", "clipped")} for one in group()]
    for one in forked:
        n = len(one["turns"])
        one |= {"oracle_advantage": [0.0] * n, "oracle_error": [0.0625] * n, "value": [0.5] * n}
    tab = opened(two_groups(), "#iteration=2&rank=0&group=0&trajectory=0&turn=1", forks={"000001-rank0": forked})
    disabled = "all => all.filter(o => o.disabled).map(o => o.textContent)"
    assert tab.locator("#measure option").evaluate_all(disabled) == ["oracle A* (see 1 forks)"]
    tab.select_option("#measure", "ratio")
    tab.locator("#sampled button").click()
    assert place(tab)["iteration"] == "1 forks"
    assert tab.locator("#measure option").evaluate_all(disabled) == ["ratio − 1 after the last step (see 1)"]
    assert tab.locator("#measure").input_value() == "advantage"
    assert "python src/credit.py run=RUN" in tab.locator("#help").text_content()


class Halved:
    """A credit that gives half to the first prompt, and the negative to the second."""

    name = "half & <b>half</b>"

    def __call__(self, lines, log_gain_noise):
        for one in lines:
            factor = -1.0 if one["group"] else 0.5
            one["beside"] = [factor * value for value in one["advantage"]]
            one["disagreement"] = [value - factor * value for value in one["advantage"]]


def test_two_credits_side_by_side(opened):
    tab = opened(two_groups(), "#iteration=1&rank=0&group=0&trajectory=0&turn=1", other=Halved())
    assert cell(tab, 0, 0).inner_text().split() == ["▼", "○", "-1.50", "|", "-0.75"]
    shown = steps(tab)
    assert (shown["Â beside"], shown["difference"]) == ("-0.75", "-0.75")
    assert "Behind the bar: Â of half & <b>half</b>." in tab.locator("#meaning").inner_text()
    tab.select_option("#sort", "disagreement")
    assert tab.locator("#prompt-rows button").all_inner_texts() == ["Who lost Sivo?", "Who rules Kinu?"]
    assert tab.locator("#prompt-rows td.number").all_inner_texts()[1::2] == ["3.00", "0.75"]
    assert tab.locator("#differs").inner_text() == "difference"
    tab.select_option("#measure", "beside")
    assert cell(tab, 1, 0).inner_text().split()[-1] == "+0.68"


def test_without_another_credit_there_is_none_to_choose(opened):
    tab = opened(two_groups())
    offered = tab.locator("#measure option, #sort option").evaluate_all("all => all.map(o => o.value)")
    assert not {"beside", "disagreement", "oracle"} & {*offered} and "ratio" in offered


def test_health_says_where_to_look_and_why(opened):
    tab = opened(two_groups(), table="iteration,update/clip_fraction,train/tool_failures\n1,0.75,0.0\n2,0.5,0.25\n")
    strip = tab.locator("#health div")
    assert strip.all_inner_texts() == [
        "clipped tokens\n0.5 ✓ ok",
        "failed calls\n0.25 ! look\nabove 0.1: more than one episode in ten meets a broken tool, and learns from it; "
        "the turns say why",
    ]
    tab.select_option("#iteration", "1")
    assert "look" in strip.first.inner_text() and "ok" in strip.last.inner_text()
    tab.locator("summary", has_text="from where on to look").click()
    limits = tab.locator("#limits tbody tr")
    assert limits.count() == 7 and all(limits.locator("td:last-child").all_inner_texts())
    assert limits.nth(1).locator("td").nth(1).inner_text() == "0.01"  # the narrower clip bound of the run


def test_columns_have_the_moments_of_their_turn_group(opened):
    head = opened(two_groups()).locator("#grid thead th").nth(1).inner_text()
    assert head.split("\n") == ["turn 1", "mean +0.20", "σ 0.10", "n 2"]


def test_keys_move_between_turns_and_trajectories(opened):
    tab = opened(two_groups(), "#iteration=2&rank=0&group=0&trajectory=1&turn=1")
    tab.keyboard.press("j")
    assert place(tab)["turn"] == "2"
    tab.keyboard.press("k")
    tab.keyboard.press("k")
    assert place(tab)["turn"] == "1"
    cell(tab, 1, 0).focus()
    tab.keyboard.press("ArrowUp")
    assert place(tab)["trajectory"] == "0"
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')").startswith("trajectory 0, turn 1")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    assert (place(tab)["trajectory"], place(tab)["turn"]) == ("1", "2")
    tab.keyboard.press("/")
    tab.keyboard.type("jk sivo")
    assert tab.locator("#search").input_value() == "jk sivo" and place(tab)["turn"] == "2"


def test_a_link_opens_its_turn(opened):
    tab = opened(two_groups(), "#iteration=1&rank=0&group=1&trajectory=1&turn=2")
    assert tab.locator("#question").inner_text() == "Who lost Sivo?"
    assert tab.locator("article.chosen pre").first.inner_text() == "ask for the king"
    assert tab.locator("#iteration").input_value() == "1"


def test_a_failed_trajectory_is_opened_at_its_lowest_turn(opened):
    tab = opened(two_groups(), "")
    assert (place(tab)["iteration"], place(tab)["trajectory"], place(tab)["turn"]) == ("2", "0", "1")
    assert cell(tab, 0, 0).inner_text().startswith("▼")


def test_prompts_are_filtered_sorted_and_searched(opened):
    tab = opened(two_groups(), "#iteration=1&rank=0&group=0&trajectory=0&turn=1")
    questions = tab.locator("#prompt-rows button")
    assert questions.all_inner_texts() == ["Who rules Kinu?", "Who lost Sivo?"]
    tab.select_option("#sort", "hardest")
    assert questions.all_inner_texts() == ["Who lost Sivo?", "Who rules Kinu?"]
    tab.select_option("#filter", "failed")
    assert questions.all_inner_texts() == ["Who lost Sivo?"]
    tab.select_option("#filter", "all")
    tab.fill("#search", "WHO RULES")
    assert sorted(questions.all_inner_texts()) == ["1: Who rules Kinu?", "2: Who rules Kinu?"]
    questions.last.click()
    assert place(tab)["iteration"] == "2"
    assert tab.evaluate("document.activeElement.closest('#grid') !== null")


def test_hostile_texts_are_shown_as_texts(opened):
    lines = group(question=HOSTILE, answers=[HOSTILE], stop=HOSTILE)
    lines[0]["turns"][0] |= {"action": HOSTILE, "observation": LONG}
    tab = opened({"000001-rank0": lines})
    assert tab.locator("#question").inner_text() == HOSTILE.replace("\u202e", "⟨U+202E⟩")
    assert tab.locator("img, b").count() == 0
    assert tab.locator("pre.result").first.inner_text() == LONG
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_it_is_readable_on_a_telephone_and_names_what_it_shows(opened):
    tab = opened(two_groups(), width=400)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert cell(tab, 0, 0).get_attribute("aria-label") == (
        "trajectory 0, turn 1: advantage Â -1.5, not useful, lowest advantage of a failed trajectory"
    )
    assert tab.locator("button:not([aria-label])").evaluate_all("all => all.every(b => b.textContent.trim())")
    assert tab.locator("select:not([aria-label])").evaluate_all("all => all.every(s => s.closest('label'))")


def test_turns_out_of_sight_are_told_on_a_telephone(opened):
    one = group()[1]
    many = {key: value[:1] * 9 for key, value in one.items() if isinstance(value, list) and len(value) == 3}
    tab = opened({"000001-rank0": [one | many | {"belief": [0.05] * 10}]}, width=400)
    assert tab.locator("#beyond").inner_text().startswith("→ ") and "more turns" in tab.locator("#beyond").inner_text()
    for _ in range(8):
        tab.keyboard.press("j")
    head, box = tab.locator("#grid tbody th").bounding_box(), cell(tab, 0, 8).bounding_box()
    assert head["x"] + head["width"] <= box["x"] and box["x"] + box["width"] <= 400
    for _ in range(8):
        tab.keyboard.press("k")
    head, box = tab.locator("#grid tbody th").bounding_box(), cell(tab, 0, 0).bounding_box()
    assert head["x"] + head["width"] <= box["x"]


def test_what_keys_change_is_brought_into_view(opened):
    lines = [one | {"sample": i} for i in range(6) for one in group()[1:]]
    for one in lines:
        one["turns"] = [turn | {"observation": "one line\n" * 12} for turn in one["turns"]]
    tab = opened({"000001-rank0": lines}, "#iteration=1&rank=0&group=0&trajectory=5&turn=1")
    for key in "jjkk":
        tab.keyboard.press(key)
        box = tab.locator("article.chosen").bounding_box()
        assert box["y"] >= -1 and box["y"] + box["height"] <= 901
        assert -1 <= tab.locator("#arithmetic h3").bounding_box()["y"] < 900
    shown = cell(tab, 5, 0).bounding_box()
    assert shown["y"] >= 0 and shown["y"] + shown["height"] <= 900


def test_an_older_file_opens(opened):
    tab = opened({"000001-rank0": older(1)})
    cell(tab, 1, 0).click()
    assert steps(tab)["turn credit"] == "0.35355"


def test_rollouts_without_beliefs_say_so(opened):
    lines = group(belief=[], has_gain=[False] * 3)
    tab = opened({"000001-rank0": lines})
    assert tab.text_content("#beliefs") == "No beliefs were recorded."
    assert "no gain" in tab.text_content("#arithmetic")
