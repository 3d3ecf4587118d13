"""A model folder that is not whole, not finite, or has a tokenizer that does not fit is refused by name at loading."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from a2tgpo.policies.checkpoint import load_weights
from a2tgpo.rollouts.chat_template import encode_prompt
from tests.helpers.model_zoo import build
from tests.helpers.shipped import pretrained_policy

NORM, LAYER = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build("qwen3", tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "policy")


def rewrite(change):
    def broken(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return broken


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name):
    def broken(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return broken


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BROKEN = {
    "missing": (rewrite(lambda w: w.pop(LAYER)), f"{LAYER} missing; expected the weights that its config.json describ"),
    "another shape": (rewrite(lambda w: w.update({NORM: torch.ones(3)})), f"{NORM} of another shape; expected"),
    "unknown": (rewrite(lambda w: w.update(v_head=torch.ones(3))), "v_head unknown to the model; expected"),
    "NaN": (rewrite(lambda w: w[NORM].fill_(torch.nan)), f"{NORM} is not finite; expected weights without"),
    "infinite": (rewrite(lambda w: w[LAYER][3, 5].fill_(torch.inf)), f"{LAYER} is not finite; expected"),
    "no weights": (without("model.safetensors"), "no file named model.safetensors"),
    "cut weights": (cut("model.safetensors"), "expected a Hugging Face model folder"),
    "cut config": (cut("config.json"), "expected a Hugging Face model folder"),
    "no tokenizer": (without(*TOKENIZER), "its tokenizer has no vocabulary; expected the tokenizer's files"),
    "no vocabulary": (without("tokenizer.json"), "expected a Hugging Face model folder"),
    "cut tokenizer": (cut("tokenizer.json"), "expected a Hugging Face model folder"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_refused_by_name(folder, how):
    damage, message = BROKEN[how]
    damage(folder)
    with pytest.raises(ValueError, match="expected") as error:
        pretrained_policy(folder)
    text = " ".join(str(error.value).split())
    assert text.startswith(f"model.policy.path={folder}: ") and message in text


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_checkpoint_that_is_not_finite_is_refused_by_name(whole, tmp_path, value):
    policy = pretrained_policy(whole)
    weights = {f"model.{name}": weight.clone() for name, weight in policy.model.state_dict().items()}
    weights[f"model.{LAYER}"][0, 0] = value
    torch.save({"state_dict": weights}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=rf"ckpt_path={tmp_path}/last\.ckpt: {LAYER} is not finite; expected"):
        load_weights(policy, tmp_path / "last.ckpt")
    assert policy.model.get_parameter(LAYER).isfinite().all()


# ---- Tokenizers ------------------------------------------------------------------------------------------------------


def retokenized(folder, change):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_tokens([AddedToken("<call>", special=False)]),
        lambda t: t.add_special_tokens({"bos_token": "<begin>"}),
        lambda t: [
            t.add_special_tokens({"additional_special_tokens": ["<|turn|>"]}),
            setattr(t, "chat_template", t.chat_template.replace("<|im_start|>", "<|turn|>")),
        ],
    ],
    ids=["a word", "the begin token", "a frame of the chat template"],
)
def test_a_tokenizer_larger_than_the_embedding_is_refused(folder, change):
    with pytest.raises(ValueError, match=r"has the token '<.*>' with id (\d+), its embedding \1 rows; expected a row"):
        pretrained_policy(retokenized(folder, change))


def test_a_special_token_that_nothing_writes_needs_no_embedding(folder):
    token = {"additional_special_tokens": ["<image>"]}
    pretrained_policy(retokenized(folder, lambda tokenizer: tokenizer.add_special_tokens(token)))


def framed(begin, end):
    """A tokenizer that puts `<|endoftext|>` before, and `<|im_end|>` behind plain text."""

    def change(tokenizer):
        frame = " ".join(["<|endoftext|>"] * begin + ["$A"] + ["<|im_end|>"] * end)
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|endoftext|>", "<|im_end|>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=frame, special_tokens=ids)

    return change


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("begin", [0, 1])
def test_a_plain_prompt_opens_with_one_begin_token_and_never_ends(folder, begin, end):
    policy = pretrained_policy(retokenized(folder, framed(begin, end)))
    first, last = policy.tokenizer.convert_tokens_to_ids(("<|endoftext|>", "<|im_end|>"))
    assert policy.tokenizer("Who?").input_ids.count(last) == end
    opening = (first,) * begin
    bare = encode_prompt(policy, "Who?", "Who?")[begin:]
    assert policy.tokenizer.decode(bare) == "Who?"
    assert encode_prompt(policy, "Who?", "Who?") == opening + bare
    if begin:
        assert encode_prompt(policy, "<|endoftext|>Who?", "Who?") == opening + bare
