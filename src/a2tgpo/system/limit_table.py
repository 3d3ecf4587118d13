"""What every value of the configuration may be, by its key on the command line."""

import os

from a2tgpo.system.limits import (
    Limit,
    address,
    anything,
    choice,
    either,
    flag,
    integer,
    items,
    mapping,
    named,
    number,
    or_null,
    part,
    pattern,
    record,
    template,
    text,
)

COUNT = integer(at_least=1)
COUNT_OR_ZERO = integer(at_least=0)
SEED = integer(at_least=0, at_most=2**32 - 1)
SECONDS = number("seconds", above=0, at_most=1_000_000)  # no socket waits much longer
SECONDS_OR_ZERO = number("seconds", at_least=0, at_most=1_000_000)
POSITIVE = number(above=0)
NOT_NEGATIVE = number(at_least=0)
POSITIVE_OR_INF = number("a number or inf", above=0, infinite=True)
SHARE = number(at_least=0, at_most=1)
ENTITIES = integer(at_least=1, at_most=1000)
FLAG = flag()
TEXT = text()
ANY_TEXT = text("a text", matching="(?s).*")
TAG = text("the name of a tag, of letters, digits, - and _", matching=r"[\w-]+")
PRECISION = choice("32-true", "bf16-mixed")
FILES = or_null(either(text("a file, a pattern of files, a hub id"), items("a list of these", TEXT)))
WRAPPER = items("[text before the answer, text after it]", ANY_TEXT, length=2)
CALL = record({"tool": TEXT, "arguments": mapping("{name: value, …}", anything())})
RESULT = either(TEXT, items("a list of passages", TEXT))
TURN = record(
    {"calls": items("a list of {tool, arguments}", CALL), "results": items("a list of texts or of passages", RESULT)},
    {"thought": ANY_TEXT},
)
EXAMPLE = record(
    {
        "question": TEXT,
        "turns": items("a list of {calls, results} and possibly thought", TURN, empty=True),
        "answer": TEXT,
    }
)
DEVICES = either(
    integer(at_least=1, at_most=1024),
    choice("auto", -1),
    text("numbers of devices", matching=r"\d+(,\d+)*,?|-1"),
    items("a list of them", integer(at_least=0, at_most=1023)),
)


CALLBACKS = (
    "checkpoint",
    "rng_state",
    "metrics_table",
    "rollout_files",
    "histograms",
    "summary",
    "page",
    "progress",
    "sizing",
)


def _parts(choice_of: str, *slots: str) -> dict[str, Limit]:
    return {slot: part(choice_of.format(slot=slot)) for slot in slots}


_TABLE: dict[str, dict[str, Limit]] = {
    "": {
        "task_name": TEXT,
        "seed": SEED,
        "threads": either(
            integer("a number of processors of this machine", at_least=1, at_most=os.cpu_count()), choice("auto")
        ),
        "ckpt_path": or_null(TEXT),
        "device": TEXT,
        "precision": PRECISION,
        "split": choice("train", "val", "test"),
        "questions": or_null(COUNT),
        "samples": COUNT,
        **dict.fromkeys(("frozen", "run", "save", "traces"), or_null(TEXT)),
        "continuations": integer(at_least=4),  # two halves, each with a spread
        "budget": number("seconds or inf", above=0, infinite=True),
        "batch_prompts": COUNT,
        "host": TEXT,
        "port": integer(at_least=0, at_most=65535),
        "topk": integer(at_least=1, at_most=1000),
        "window": number("seconds", at_least=0, at_most=1),
        "max_batch": COUNT,
        "trainer": part("trainer"),
    },
    "paths": dict.fromkeys(("root_dir", "log_dir", "output_dir", "policy_dir"), TEXT),
    "data": {
        **_parts("data/{slot}", "tasks", "environment", "dialect", "engine", "reward"),
        "retriever": or_null(part("data/retriever")),
        **{slot: or_null(part(f"data/{slot}")) for slot in ("shaping", "branching")},
        "module": part("data"),
        "facts_dir": TEXT,
    },
    "data.module": {
        **dict.fromkeys(("prompts_per_iteration", "mini_batch_prompts", "group_size", "max_sessions"), COUNT),
        **dict.fromkeys(("max_prompt_tokens", "max_response_tokens", "max_action_tokens"), COUNT),
        **dict.fromkeys(("val_tasks", "test_tasks"), COUNT),
        **dict.fromkeys(("refill_rounds", "continuations"), COUNT_OR_ZERO),
        "episode_timeout": SECONDS,
        "max_failed_share": number(at_least=0, below=1),
        "seed": SEED,
        "demonstrations": or_null(TEXT),
    },
    "data.environment": {
        "max_calls": COUNT_OR_ZERO,
        "tool_timeout": SECONDS,
        "max_tool_failures": COUNT,
        "deterministic": FLAG,
        "judge": part("data/environment"),
        "tools.search.topk": COUNT,
        **_parts("data/tasks", "tools.search.size", "tools.search.placement"),
    },
    "data.dialect": {
        "prompt_template": template("{question}"),
        "answer_wrapper": WRAPPER,
        "answer_pattern": pattern(),
        "call_tags": or_null(mapping("{tool: tag, …}", TAG)),
        "answer_tag": TAG,
        "result_tag": TAG,
        "result_template": template("{result}"),
        "layout": part("data/dialect"),
        "layout.template": TEXT,
        "layout.separator": ANY_TEXT,
        "layout.nothing": ANY_TEXT,
        "examples": named("{name: worked episode, …}", EXAMPLE),
        "assistant_prefix": ANY_TEXT,
        "chat": FLAG,
        "system": ANY_TEXT,
        "template": or_null(mapping("{name: value, …}", anything())),
    },
    "data.reward": {"outcome": TEXT, "malformed": number(), "unanswered": number()},
    "data.shaping": {"max_response_tokens": COUNT, "buffer": COUNT},
    "data.branching": {"share": number(above=0, below=1)},
    "data.retriever": {
        "passages": part("data/retriever"),
        **dict.fromkeys(("corpus_path", "cache_dir", "model", "device"), TEXT),
        "k1": NOT_NEGATIVE,
        "b": SHARE,
        **dict.fromkeys(("query_prefix", "passage_prefix"), or_null(ANY_TEXT)),
        "batch_size": COUNT,
        "url": address(),
        "protocol": choice("search_r1", "skyrl"),
        "timeout": SECONDS,
        "total_timeout": SECONDS,
        "retries": COUNT_OR_ZERO,
        "max_concurrent": COUNT,
        "cache_size": COUNT_OR_ZERO,
    },
    "data.engine": {
        "max_sessions": COUNT,
        "deterministic": either(FLAG, choice("auto")),
        "weight_sync": part("data/engine/weight_sync"),
        "weight_sync.directory": TEXT,
        "url": address(),
        "model": TEXT,
        "max_staleness": COUNT_OR_ZERO,
        "timeout": SECONDS,
        "patience": SECONDS_OR_ZERO,
        "max_concurrency": COUNT,
    },
    "data.tasks": {
        **dict.fromkeys(("train", "val", "test"), FILES),
        "benchmarks_dir": TEXT,
        "question_marker": or_null(TEXT),
        "limit": or_null(COUNT),
        **dict.fromkeys(("train_questions", "val_questions", "test_questions", "questions_per_world"), COUNT),
        "max_steps": integer(at_least=1, at_most=4),
        **_parts("data/tasks", "size", "mix"),
        "placement": or_null(part("data/tasks")),
    },
    "data.tasks.placement": {
        "collections": integer(at_least=1, at_most=6),  # as many as have a name
        "number": SEED,
    },
    "data.tasks.size": {
        "film": integer(at_least=2, at_most=1000),  # a comparison needs two
        **dict.fromkeys(("person", "city", "company", "country"), ENTITIES),
        "person_words": or_null(ENTITIES),
        "objects": or_null(integer(at_least=2, at_most=20)),  # no more than there are years
    },
    "data.tasks.mix": dict.fromkeys(("hop1", "hop2", "hop3", "hop4", "comparison", "narrowing"), SHARE),
    "model": {
        **_parts("model/{slot}", "policy", "reference", "signal", "outcome", "normalizer", "accumulator", "combiner"),
        **_parts("model/{slot}", "credit", "ratio", "clipper", "surrogate", "aggregation", "correction"),
        **_parts("model/{slot}", "optimizer", "scheduler"),
        "method": part("model"),
        "module": part("model"),
        "imitation": part("model"),
    },
    "model.policy": {
        "path": or_null(TEXT),
        "dtype": choice("float32", "bfloat16"),
        "attn_implementation": choice("sdpa", "eager"),
        "gradient_checkpointing": either(FLAG, choice("auto")),
        "compile": FLAG,
        "temperature": number(at_least=0.01, at_most=100),  # vLLM takes less for 0.01
        "top_p": number(above=0, at_most=1),
        "lora.r": integer(at_least=1, at_most=4096),
        "lora.lora_alpha": POSITIVE,
        "lora.lora_dropout": SHARE,
    },
    "model.architecture": {
        "model_type": TEXT,
        **dict.fromkeys(
            ("hidden_size", "intermediate_size", "head_dim", "vocab_size", "max_position_embeddings"),
            integer(at_least=1, at_most=10_000_000),
        ),
        **dict.fromkeys(
            ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), integer(at_least=1, at_most=10_000)
        ),
        "tie_word_embeddings": FLAG,
    },
    "model.signal": {
        "gain": choice("prob", "log_prob"),
        "baseline": choice("query", "first_turn"),
        "aliases": choice("first", "max", "mean"),
        "seed": SEED,
        **_parts("model/signal", "signal", "scorer", "signal.scorer"),
        "scorer.url": address(),
        "scorer.timeout": SECONDS,
        "scorer.patience": SECONDS_OR_ZERO,
        "scorer.batch_size": COUNT,
        "offset": POSITIVE,
    },
    "model.outcome": {"resolution": NOT_NEGATIVE, "threshold": number()},
    "model.normalizer": {"resolution": either(NOT_NEGATIVE, choice("auto"))},
    "model.accumulator": {"gamma": number(above=0, at_most=1), "length": COUNT},
    "model.combiner": {"alpha": number()},
    "model.credit": {
        "alpha": number(),
        "gamma": number(above=0, at_most=1),
        "lone": choice("outcome", "raw"),
        **dict.fromkeys(("belief", "dialogue"), FLAG),
        **dict.fromkeys(("penalty", "tau", "min_std"), POSITIVE),
        **dict.fromkeys(("omega", "kappa", "outcome_weight", "state_weight", "resolution"), NOT_NEGATIVE),
        "min_visits": COUNT,
        "beta": number(above=0, at_most=1),
        "depth": either(COUNT_OR_ZERO, choice("all")),
        "lam": SHARE,
        "memory": number(at_least=0, below=1),
    },
    "model.clipper": {
        "beta": number(at_least=0, below=1),
        "eps_low": POSITIVE_OR_INF,
        "eps_high": POSITIVE_OR_INF,
    },
    "model.aggregation": {"max_length": COUNT},
    "model.correction": {"cap": number(at_least=1)},
    "model.optimizer": {
        "lr": number(above=0, at_most=10),
        "betas": items("two numbers >= 0 and < 1", number(at_least=0, below=1), length=2),
        "weight_decay": number(at_least=0, at_most=10),
    },
    "model.scheduler": {"name": TEXT, "num_warmup_steps": COUNT_OR_ZERO},
    "model.module": {
        "answer_wrapper": WRAPPER,
        "micro_batch_tokens": COUNT,
        "kl_coef": NOT_NEGATIVE,
        "max_grad_norm": POSITIVE_OR_INF,
        "max_skipped_steps": COUNT,
    },
    "trainer": {
        "max_epochs": COUNT,
        "accelerator": choice("cpu", "gpu", "cuda", "mps", "auto"),
        "devices": DEVICES,
        "num_nodes": integer(at_least=1, at_most=100_000),
        "precision": PRECISION,
        "check_val_every_n_epoch": COUNT,
        "reload_dataloaders_every_n_epochs": COUNT_OR_ZERO,
        "num_sanity_val_steps": integer(at_least=-1),
        "log_every_n_steps": COUNT_OR_ZERO,
        **dict.fromkeys(("use_distributed_sampler", "inference_mode", "detect_anomaly"), FLAG),
        **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), FLAG),
        "strategy.gradient_as_bucket_view": FLAG,
        "strategy.replicas": COUNT,
        "strategy.timeout.hours": number("hours", above=0, at_most=10_000),
    },
    "callbacks": {
        **_parts("callbacks", *CALLBACKS),
        "checkpoint.monitor": text("a figure of the validation, such as val/success", matching="val/.+"),
        "checkpoint.mode": choice("max", "min"),
        **dict.fromkeys(("rollout_files.every", "histograms.every", "progress.every"), COUNT),
        "rollout_files.max_files": COUNT,
        "rollout_files.transcripts": COUNT_OR_ZERO,
        "nothing_learned.patience": COUNT,
        "summary.experiment": text("an experiment, such as experiment=a2tgpo"),
        "sizing.hardware.devices": COUNT,
        "sizing.replicas": or_null(COUNT),
        **dict.fromkeys(("sizing.hardware.memory_gib", "sizing.hardware.tflops"), POSITIVE),
    },
}

LIMITS: dict[str, Limit] = {
    f"{node}.{name}".removeprefix("."): limit for node, limits in _TABLE.items() for name, limit in limits.items()
}
"""What is expected of the value of each key."""
