"""AdamW with moments of a byte: what it keeps, how near it stays to AdamW, and that its state is one of AdamW."""

import copy
from io import BytesIO

import pytest
import torch
from torch import nn

import train
from a2tgpo.training import optimization
from error_lines import stop_in_one_line
from tests.helpers.tiny_runs import SHIPPED, SMALL, checkpoint, same, table
from tests.training.test_ddp import SETTINGS, apart, moved, torchrun, train_in_two

VOCABULARY, WIDTH, LR = 40, 128, 1e-3
EIGHT_BIT = "model/optimizer=adamw_8bit"
low_bit = pytest.mark.low_bit


@pytest.fixture(autouse=True)
def eagerly(request):
    """Steps as they stand in the code; those of a slow test are compiled."""
    stance = "default" if request.node.get_closest_marker("slow") else "force_eager"
    with torch.compiler.set_stance(stance):
        yield


class Model(nn.Module):
    """Two layers between an embedding and a head. Tokens take turns: one batch has the even ones, the next the odd."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def loss(self, step):
        ids = torch.arange(step % 2, VOCABULARY, 2)
        return nn.functional.cross_entropy(self.head(self.layers(self.embedding(ids))), ids.roll(step))


@pytest.fixture
def eight_bit():
    """The optimizer, which needs torchao."""
    from a2tgpo.training.eight_bit_adamw import EightBitAdamW

    return EightBitAdamW


def adamw(kind):
    return lambda weights: kind(weights, lr=LR, betas=(0.9, 0.99), weight_decay=0.01)


def made(kind):
    model = Model()
    schedule = {"make_scheduler": lambda optimizer, num_training_steps: None, "n_steps": 1}
    return model, optimization.optimizer_with_schedule(model, adamw(kind), **schedule)["optimizer"]


def go_on(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()


def movements(kind, steps):
    model, optimizer = made(kind)
    go_on(model, optimizer, range(steps))
    return {name: (w - v).detach() for (name, w), v in zip(model.named_parameters(), Model().parameters(), strict=True)}


def far(ours, theirs):
    return float(((ours - theirs).norm() / theirs.norm()).detach())


@low_bit
def test_it_moves_as_adamw_does(eight_bit):
    ours, theirs = movements(eight_bit, 8), movements(torch.optim.AdamW, 8)
    assert max(far(ours[name], theirs[name]) for name in ours) < 0.05
    assert far(ours["layers.0.weight"], theirs["layers.0.weight"]) > 1e-4  # its moments are others


@low_bit
def test_its_first_step_is_that_of_adamw(eight_bit):
    ours, theirs = movements(eight_bit, 1), movements(torch.optim.AdamW, 1)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def largest_step(kind):
    """Of an embedding whose every second row has a gradient of 1e-5 beside one of 1, and then hardly any."""
    model, optimizer = made(kind)
    weight = model.embedding.weight
    for small in (1e-5, 1e-9):
        before = weight.detach().clone()
        weight.grad = torch.ones(VOCABULARY, WIDTH)
        weight.grad[1::2] = small
        optimizer.step()
    return float((weight.detach() - before).abs().max())


@low_bit
def test_coded_moments_of_embeddings_would_make_steps_of_any_size(eight_bit):
    codes_all = type("CodesAll", (eight_bit,), {"keep_whole": lambda self, weights: None})
    assert largest_step(eight_bit) < 2 * LR
    assert largest_step(codes_all) > 20 * LR


@low_bit
def test_layers_have_a_byte_a_moment_and_embedding_and_head_four(eight_bit):
    model, optimizer = made(eight_bit)
    go_on(model, optimizer, range(1))
    kept = {name: optimizer.state[weight] for name, weight in model.named_parameters()}
    for moment in ("exp_avg", "exp_avg_sq"):
        coded = kept["layers.0.weight"][moment]
        assert coded.codes.dtype is torch.uint8 and coded.codes.shape == (WIDTH, WIDTH)
        assert coded.scale.numel() == WIDTH * WIDTH // 256
        for name in ("embedding.weight", "head.weight"):
            assert type(kept[name][moment]) is torch.Tensor and kept[name][moment].dtype is torch.float32


@low_bit
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(eight_bit):
    whole, optimizer = made(eight_bit)
    go_on(whole, optimizer, range(6))
    model, stopped = made(eight_bit)
    go_on(model, stopped, range(3))
    file = BytesIO()
    torch.save(stopped.state_dict(), file)
    assert b"torchao" not in file.getvalue()
    file.seek(0)
    again = adamw(eight_bit)(model.parameters())
    again.keep_whole((model.embedding.weight, model.head.weight))
    again.load_state_dict(torch.load(file, weights_only=True))
    go_on(model, again, range(3, 6))
    assert same(dict(model.state_dict()), dict(whole.state_dict()))
    assert same(again.state_dict()["state"], optimizer.state_dict()["state"])


@low_bit
def test_it_goes_on_from_the_state_of_adamw(eight_bit):
    exact, optimizer = made(torch.optim.AdamW)
    go_on(exact, optimizer, range(4))
    model = copy.deepcopy(exact)
    coded = adamw(eight_bit)(model.parameters())
    coded.keep_whole((model.embedding.weight, model.head.weight))
    coded.load_state_dict(optimizer.state_dict())
    start = exact.layers[0].weight.detach().clone()
    for each in ((exact, optimizer), (model, coded)):
        go_on(*each, range(4, 7))
    assert 1e-4 < far(model.layers[0].weight - start, exact.layers[0].weight - start) < 0.1


@low_bit
def test_a_run_is_resumed_bit_for_bit(composed, tmp_path):
    settings = ("experiment=a2tgpo", *SMALL, EIGHT_BIT, f"paths.policy_dir={SHIPPED}", "seed=1")
    settings += ("model/scheduler=constant", "model.scheduler.num_warmup_steps=0")
    for output, epochs in (("whole", 2), ("stopped", 1)):
        train.train(composed(*settings, f"trainer.max_epochs={epochs}", f"paths.output_dir={tmp_path}/{output}"))
    last = f"ckpt_path={tmp_path}/stopped/checkpoints/last.ckpt"
    train.train(composed(*settings, "trainer.max_epochs=2", f"paths.output_dir={tmp_path}/stopped", last))
    whole, stopped = (checkpoint(tmp_path / output) for output in ("whole", "stopped"))
    assert same(whole["state_dict"], stopped["state_dict"]) and moved(whole) > 0
    assert same(whole["optimizer_states"], stopped["optimizer_states"])
    assert all(float(row["update/lr"]) == 4e-4 for row in table(tmp_path / "whole") if row["update/lr"])


def test_without_the_package_a_line_names_the_extra(composed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(optimization, "find_spec", lambda name: None)
    with pytest.raises(SystemExit), stop_in_one_line():
        train.train(composed("experiment=a2tgpo", *SMALL, EIGHT_BIT, f"paths.output_dir={tmp_path}"))
    expected = "error: model/optimizer=adamw_8bit: the package 'torchao' is not installed; expected the extra 'torchao'"
    assert capsys.readouterr().err.startswith(expected)


@low_bit
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_and_in_shards_it_does_about_the_same(composed, tmp_path):
    settings = (*SETTINGS, EIGHT_BIT, "trainer.max_epochs=1")
    train.train(composed(*settings, f"paths.output_dir={tmp_path}/one"))
    train_in_two(torchrun, *settings, f"paths.log_dir={tmp_path}/two", trainer="fsdp_cpu")
    (two,) = (tmp_path / "two" / "train" / "runs").iterdir()
    assert moved(checkpoint(two)) > 3e-4
    assert apart(checkpoint(tmp_path / "one"), checkpoint(two)) < 4e-4  # a step; blocks end elsewhere
    for directory, ranks in ((two, 1), (tmp_path / "one", 2)):  # and the other way round
        last = (*settings, "trainer.max_epochs=2", f"ckpt_path={directory}/checkpoints/last.ckpt")
        if ranks == 1:
            train.train(composed(*last, f"paths.output_dir={directory}"))
        else:
            train_in_two(torchrun, *last, trainer="fsdp_cpu")
        assert [row["iteration"] for row in table(directory)] == ["0", "1", "2"]
        assert checkpoint(directory)["global_step"] == 4
