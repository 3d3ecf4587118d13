"""Log-probs by chunks are those of the model's own logits, in whatever way it makes them, and so is their gradient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import DynamicCache

from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import prepare
from a2tgpo.policies.reference import disabled_adapter
from a2tgpo.scoring import projection
from a2tgpo.scoring.float32 import float32_arithmetic
from a2tgpo.scoring.projection import predict
from a2tgpo.scoring.score import token_stats
from tests.helpers.architectures import SERVED, tiny_model

ROOT = Path(__file__).resolve().parents[2]
SIZES = torch.tensor([21, 13, 17])
ROW = torch.arange(3).repeat_interleave(SIZES)
COLUMN = torch.cat([torch.arange(n) for n in SIZES.tolist()])
IDS = torch.randint(2, 300, (3, 22), generator=torch.Generator().manual_seed(0))
TARGET = IDS[ROW, COLUMN + 1]
WEIGHT = torch.linspace(-1, 1, len(ROW))
ADAPTERS = {
    "beside the head": {"target_modules": ["q_proj", "down_proj"]},
    "on the head": {"target_modules": ["q_proj", "lm_head"]},
    "the head itself": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}
ONE_OF_A_KIND = {"llama", "gemma2", "cohere", "granite", "phi", "falcon_h1", "jamba", "opt", "nanochat"}


@pytest.fixture
def small_chunks(monkeypatch):
    """Seven tokens of a vocabulary of 300 at most."""
    monkeypatch.setattr(projection, "CHUNK_BYTES", 7 * 300 * 4)


def head_of(kind):
    """A tiny model, in which nothing behind the head is the identity and a bias is no zero."""
    model = tiny_model(kind)
    for name in ("logits_scaling", "lm_head_multiplier", "logit_scale"):
        if name in vars(model.config):
            setattr(model.config, name, 0.5)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        nn.init.normal_(model.get_output_embeddings().bias)
    return model


def adapted(adapter):
    """With an adapter that is no zero."""
    model = get_peft_model(tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=4, **ADAPTERS[adapter]))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    return model


def by_hand(model, temperature=1.0):
    """Log-probs and entropy from all of the model's logits."""
    logprobs = (model(IDS, use_cache=False).logits.float() / temperature).log_softmax(-1)[ROW, COLUMN]
    return logprobs.gather(-1, TARGET[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def gradients(model, logprobs):
    """By name, of a weighted sum of the log-probs."""
    model.zero_grad()
    (WEIGHT * logprobs).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def predicted(policy, **options):
    return predict(policy, ROW, COLUMN, TARGET, IDS, use_cache=False, **options)


def require_equal(model, temperature=1.0):
    policy = Policy(model, None)
    expected, entropy = by_hand(model, temperature)
    found, found_entropy = predicted(policy, temperature=temperature, with_entropy=True)
    torch.testing.assert_close((found, found_entropy), (expected, entropy), rtol=0, atol=1e-5)
    plain, chunked = gradients(model, expected), gradients(model, found)
    assert plain.keys() == chunked.keys() and any(gradient.any() for gradient in plain.values())
    for name, gradient in chunked.items():
        close = 1e-6 + 1e-5 * float(plain[name].abs().max())  # some gradients are 0 but for rounding
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=close, msg=name)


# ---- Equal to the model's own logits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ONE_OF_A_KIND else pytest.mark.slow) for kind in SERVED]
)
def test_every_architecture_by_chunks(small_chunks, kind):
    require_equal(head_of(kind))


@pytest.mark.parametrize("chunk_bytes", [1, 7 * 300 * 4, 51 * 300 * 4 - 1, 51 * 300 * 4])
def test_whatever_the_size_of_a_chunk(monkeypatch, chunk_bytes):
    monkeypatch.setattr(projection, "CHUNK_BYTES", chunk_bytes)
    require_equal(head_of("gemma2"), temperature=0.7)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_beside_and_on_the_head(small_chunks, adapter):
    require_equal(adapted(adapter))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_reference_without_its_adapter_has_none_on_its_head_either(small_chunks, adapter):
    policy = Policy(adapted(adapter), None)
    with torch.no_grad():
        (found, _), (expected, _), (own, _) = (
            predicted(disabled_adapter(policy)),
            by_hand(tiny_model("llama")),
            predicted(policy),
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (own - found).abs().max() > 1e-2


def test_checkpointed_activations(small_chunks):
    require_equal(prepare(tiny_model("llama"), gradient_checkpointing=True, compile=False, lora=None).train())


@pytest.mark.slow
def test_a_compiled_decoder(small_chunks):
    compiled = prepare(tiny_model("llama"), gradient_checkpointing=False, compile=True, lora=None)
    with torch.no_grad():
        found, expected = predicted(Policy(compiled, None))[0], by_hand(tiny_model("llama"))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_cache_is_filled_and_nothing_stays_behind(small_chunks):
    model, cache = tiny_model("llama"), DynamicCache()
    predict(Policy(model, None), ROW, COLUMN, TARGET, IDS, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == IDS.shape[1]
    head = model.get_output_embeddings()
    assert not head._forward_pre_hooks and not head._forward_hooks and "forward" not in vars(head)
    assert model(IDS).logits.shape == (*IDS.shape, 300)


def test_nothing_to_predict(small_chunks):
    nothing = torch.zeros(0, dtype=torch.long)
    logprobs, entropy = predict(Policy(tiny_model("llama"), None), nothing, nothing, nothing, IDS, with_entropy=True)
    assert logprobs.shape == entropy.shape == (0,) and logprobs.requires_grad


class Masked(nn.Module):
    """A model whose last step is up to a test."""

    def __init__(self, last_step):
        super().__init__()
        self.inner, self.last_step, self.config = tiny_model("llama"), last_step, tiny_model("llama").config

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, *args, **kwargs):
        out = self.inner(*args, **kwargs)
        out.logits = self.last_step(out.logits)
        return out


def forbid(logits):
    """In place, as Chameleon does."""
    logits[..., 250:] = -20.0
    return logits


def halves(logits):
    """By two ways that meet again."""
    return torch.cat([logits[..., :100], 2 * logits[..., 100:].tanh()], -1)


def elsewhere(logits):
    return torch.from_numpy(logits.detach().numpy()).requires_grad_()


@pytest.mark.parametrize("last_step", [forbid, halves])
def test_whatever_is_done_behind_the_head_is_done_to_every_chunk(small_chunks, last_step):
    require_equal(Masked(last_step))


def test_what_cannot_be_repeated_is_refused(small_chunks):
    with pytest.raises(
        ValueError, match=r"model\.policy\.path: a llama model makes its logits in a way that cannot be"
    ):
        predicted(Policy(Masked(elsewhere), None))


# ---- Precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_scoring_and_update_agree_to_the_bit_and_chunks_move_no_log_prob_in_bfloat16(monkeypatch, weights):
    policy, found = Policy(tiny_model("gemma2", dtype=weights), None), {}
    turn_ids = torch.full_like(IDS, -1).index_put((ROW, COLUMN + 1), torch.tensor(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for chunk_bytes in (7 * 300 * 4, 2**28):
            monkeypatch.setattr(projection, "CHUNK_BYTES", chunk_bytes)
            updated = token_stats(policy, IDS, turn_ids, with_entropy=False).logprobs
            with torch.no_grad():
                scored = token_stats(policy, IDS, turn_ids, DynamicCache()).logprobs
            assert updated.dtype == torch.float32 and torch.equal(updated, scored)
            found[chunk_bytes] = updated, gradients(policy.model, updated[ROW, COLUMN + 1])
    (small, small_gradients), (whole, whole_gradients) = found.values()
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)
    for name, gradient in small_gradients.items():
        assert (gradient - whole_gradients[name]).norm() <= 1e-2 * whole_gradients[name].norm(), name


@pytest.mark.parametrize(
    ("weights", "autocast"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_a_gpu_would_multiply_in_tf32_where_the_layers_are_in_bf16_alone(monkeypatch, weights, autocast):
    matmul, linear, seen = torch.backends.cuda.matmul, torch.nn.functional.linear, set()

    def recorded(*operands):
        seen.add((matmul.fp32_precision, operands[0].dtype))
        return linear(*operands)

    monkeypatch.setattr(projection.F, "linear", recorded)
    before, policy = matmul.fp32_precision, Policy(tiny_model("llama", dtype=weights), None)
    in_bf16 = autocast or weights == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        predict(policy, ROW, COLUMN, TARGET, IDS, use_cache=False)
        assert ("tf32" if in_bf16 else before, torch.float32) in seen
        seen.clear()
        with float32_arithmetic(policy):
            assert matmul.fp32_precision == ("tf32" if in_bf16 else before)
    assert matmul.fp32_precision == before


def test_the_gradient_of_the_product_with_a_head():
    hidden, weight = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (3, 7))
    assert torch.autograd.gradcheck(projection._Product.apply, (hidden[None], weight))
    assert torch.autograd.gradcheck(projection._Product.apply, (hidden, weight.detach()))


# ---- Several processes -----------------------------------------------------------------------------------------------


class Learner(nn.Module):
    """The log-probs of this rank's rows under DDP."""

    def __init__(self):
        super().__init__()
        self.model = tiny_model("llama")

    def forward(self, rows):
        own = torch.isin(ROW, torch.tensor(rows))
        picked = predict(Policy(self.model, None), ROW[own], COLUMN[own], TARGET[own], IDS, use_cache=False)[0]
        return (WEIGHT[own] * picked).sum()


def on_rank(rank, folder):
    """Two micro-batches of this rank, of which the second synchronises; rank 0 saves the gradient."""
    projection.CHUNK_BYTES = 5 * 300 * 4
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learner = DistributedDataParallel(Learner())
    with learner.no_sync():
        (2 * learner([0] if rank else [1])).backward()
    (2 * learner([2])).backward() if rank else (0 * learner([0])).backward()
    if rank == 0:
        torch.save({name: weight.grad for name, weight in learner.module.model.named_parameters()}, folder / "gradient")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ddp_sums_the_chunks_of_its_ranks(tmp_path):
    torch.multiprocessing.spawn(on_rank, (tmp_path,), nprocs=2)
    model = tiny_model("llama")
    expected, found = gradients(model, by_hand(model)[0]), torch.load(tmp_path / "gradient")
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        close = 1e-5 * float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=close, msg=name)


# ---- Memory ----------------------------------------------------------------------------------------------------------

LARGE = 151_936
PEAK = """
import sys
from pathlib import Path

import torch
from tests.helpers.architectures import tiny_model
from tests.helpers.peak_memory import peak_mib
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring import projection

policy = Policy(tiny_model("llama", vocab_size=151_936), None)
for weight in policy.model.parameters():
    weight.grad = torch.zeros_like(weight)


def loss(tokens):
    places = torch.arange(tokens)
    row, column, ids = places // 500, places % 500, torch.zeros(-(-tokens // 500), 500, dtype=torch.long)
    projection.predict(policy, row, column, places, ids, use_cache=False)[0].sum().backward()


def peak(tokens, chunk_bytes):
    projection.CHUNK_BYTES = chunk_bytes
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_mib()
    loss(tokens)
    print(peak_mib() - before)


loss(4)
for case in sys.argv[1:]:
    peak(*map(int, case.split(",")))
"""


def peaks(*cases):
    """MiB that the loss of so many tokens takes in chunks of so many bytes, beyond the model with its gradients."""
    command = [sys.executable, "-c", PEAK, *(f"{tokens},{size}" for tokens, size in cases)]
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is given back
    done = subprocess.run(command, cwd=ROOT, env=exact, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens():
    whole, chunked, twice = peaks((400, 2**40), (400, 2**24), (800, 2**24))
    assert whole > 4 * 400 * LARGE * 4 / 2**20
    assert chunked < whole / 5
    assert twice < chunked + 20


@pytest.mark.slow
def test_eight_thousand_tokens_of_a_large_vocabulary_take_less_than_half_of_their_logits():
    (chunked,) = peaks((8192, projection.CHUNK_BYTES))
    assert chunked < 8192 * LARGE * 4 / 2**20 / 2  # as a whole, five times their size
