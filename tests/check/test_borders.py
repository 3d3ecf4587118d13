"""A token that reaches over the end of a result is found."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from a2tgpo.check.borders import borders
from a2tgpo.check.findings import Verdict

ACTION = "<think> done</think><answer> "


@pytest.fixture(scope="module")
def tokenizer():
    """As those of GPT-2, which join punctuation; trained on tags that follow one another."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(["</result><answer> a</answer>"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_a_result_that_ends_in_half_a_token_is_found_and_a_line_break_mends_it(tokenizer):
    (finding,) = borders(tokenizer, "<result> Varo</result>", ACTION)
    assert finding.verdict is Verdict.DOUBTFUL and finding.figures == {"joined": "><"}
    assert finding.mend.startswith("a data.dialect.result_template that ends with a line break behind </result>")
    assert not [*borders(tokenizer, "<result> Varo</result>\n", ACTION)]


def test_tokenizers_whose_tags_are_tokens_have_no_such_border(random_policy):
    assert not [*borders(random_policy.tokenizer, "<result> Varo</result>", ACTION)]
