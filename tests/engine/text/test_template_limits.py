"""Tests chat templates: rendered like the library, in a process that no template can block or fill (fault 54)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from transformers import PreTrainedTokenizerBase

from bot.engine.text import templates
from bot.engine.text.encoding import SafeEncoder
from bot.engine.text.literal_matcher import LiteralMatcher
from bot.engine.text.prompts import PromptBuilder
from bot.engine.text.template_renderer import TemplateExceeded, TemplateRefused, TemplateRenderer
from bot.engine.text.templates import TEMPLATES, ChatTemplate
from bot.types.errors import ModelError, RequestFailed
from tests.support.builders import prompt_tokenizers
from tests.support.builders.catalog_tokenizers import GEMMA_4, MAKERS
from tests.support.builders.poison_templates import CROOKED, ENDLESS, LARGE, POISON, REPEATED, WORDY
from tests.support.builders.prompt_tokenizers import CHATML, PHI_4_TWICE, ask, bot, byte_level, user
from tests.support.builders.tiny_models import CHATML as TINY

SECONDS = 1.0
MEMORY_MB = 256
MESSAGES = [
    {"role": "user", "content": "Hello <b>there</b>, \ue0001\ue001 \U0001f642"},
    {"role": "assistant", "content": "  Hi "},
    {"role": "user", "content": "'quoted' \"and\" \n so {{ on }}"},
]

ORDINARY = {
    name: text
    for name, text in {**vars(prompt_tokenizers), "GEMMA_4": GEMMA_4, "TINY": TINY, **TEMPLATES}.items()
    if "{%" in str(text)
}
"""All templates of the tests, and our own."""

FEATURES = {
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 'ü'} | tojson(sort_keys=true) }}",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% break %}{% endfor %}",
    "time": "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now(format='%d %b') }}",
    "generation": (
        "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(found=false, self=1) %}{% for m in messages %}{% set ns.found = m.role %}{% endfor %}"
        "{{ ns.found }}{{ ns.self }}"
    ),
    "dict": "{{ dict(a=1, b=2) }}{{ dict.fromkeys(['x'], 3) }}",
    "trimmed blocks": "  {% if true %}\n    text\n  {% endif %}\n{{- ' x ' -}}\n  y\n",
    "variables": (
        "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents }}{{ enable_thinking }}"
        "{{ add_generation_prompt }}{{ unknown }}"
    ),
    "filters": "{{ messages | map(attribute='role') | join(',') | upper | replace('U', 'x') }}{{ messages | length }}",
    "a macro": "{% macro say(m) %}[{{ m.role }}]{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    "slices": "{{ messages[1:][0]['content'].strip().split('i')[0] }}{{ messages[::-1][0].role }}{{ 'b' in 'abc' }}",
}
"""Other features that the library offers to templates."""


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    """One renderer for all tests: it replaces a child that a test killed."""
    made = TemplateRenderer(SECONDS, MEMORY_MB)
    yield made
    made.close()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, renderer: TemplateRenderer) -> TemplateRenderer:
    """Renders in this process with smaller limits, so that the tests are fast."""
    monkeypatch.setattr(templates, "SHARED", renderer)
    return renderer


def ours(renderer: TemplateRenderer, tokenizer: PreTrainedTokenizerBase, template: str, ask_on: bool) -> str:
    variables = {**tokenizer.special_tokens_map, "tools": None, "documents": None, "enable_thinking": False}
    return renderer.render(template, MESSAGES, {**variables, "add_generation_prompt": ask_on}).text


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", [*ORDINARY, *FEATURES])
def test_a_template_is_rendered_as_the_library_does(renderer: TemplateRenderer, name: str, asked: bool) -> None:
    template = (ORDINARY | FEATURES)[name]
    tokenizer = byte_level(template)
    theirs = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=asked, enable_thinking=False)
    assert ours(renderer, tokenizer, template, asked) == theirs


@pytest.mark.usefixtures("smollm2_dir")
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "phi-2"])
def test_so_is_each_template_of_the_catalog(renderer: TemplateRenderer, name: str) -> None:
    tokenizer = MAKERS[name]()
    theirs = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert ours(renderer, tokenizer, tokenizer.get_chat_template(), True) == theirs


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace(_x=1) %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ dict.mro() }}",
        "{{ messages.append(1) }}",
        "{{ lipsum.__globals__.os }}",
        "{% include 'x' %}",
        "{{ 1/0 }}",
        "{% if %}",
    ],
)
def test_what_the_library_refuses_is_refused(renderer: TemplateRenderer, template: str) -> None:
    tokenizer = byte_level(template)
    with pytest.raises(Exception, match=r"."):
        tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    with pytest.raises(TemplateRefused):
        ours(renderer, tokenizer, template, True)


def test_a_reason_can_be_sent_whatever_the_template_says(renderer: TemplateRenderer) -> None:
    template = "{{ raise_exception('half \\ud800 of a pair') }}"
    with pytest.raises(TemplateRefused) as refused:
        ours(renderer, byte_level(template), template, True)
    assert str(refused.value).encode()


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", POISON)
def test_no_template_stops_or_fills_who_renders_it(strict: TemplateRenderer, name: str) -> None:
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"^The chat template of toxic ") as refused:
        PromptBuilder(byte_level(POISON[name]), "", 4096, "toxic")
    assert time.monotonic() - began < SECONDS + 20, "it hung"
    assert psutil.Process().memory_info().rss - before < 100 << 20
    said = str(refused.value)
    assert said.endswith("choose another model, or name one of our templates in the catalog (phi-2).")
    assert len(said) < 500
    assert "\n" not in said
    # The next prompt is not affected.
    assert PromptBuilder(byte_level(CHATML), "", 4096).build(ask(user("Hi")), 10).ids


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (ENDLESS, "takes longer than 1 s"),
        (LARGE, "takes more than 256 MB of memory"),
        (WORDY, "writes more than 64 kB besides the messages"),
    ],
    ids=["endless", "large", "wordy"],
)
def test_the_sentence_says_which_limit_it_broke(strict: TemplateRenderer, names: dict[str, str], reason: str) -> None:
    for template in names.values():
        with pytest.raises(ModelError, match=f"The chat template of toxic {reason}"):
            PromptBuilder(byte_level(template), "", 4096, "toxic")


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", REPEATED)
def test_an_odd_template_is_looked_at_in_no_time(strict: TemplateRenderer, name: str) -> None:
    builder = PromptBuilder(byte_level(REPEATED[name]), "", 10**6)
    began = time.process_time()
    PromptBuilder(byte_level(CHATML), "", 10**6)
    ordinary = time.process_time() - began
    began = time.process_time()
    ChatTemplate(byte_level(REPEATED[name]), "", SafeEncoder(byte_level(CHATML)).control)
    assert time.process_time() - began < 1 + 50 * ordinary
    assert builder.build(ask(user("Hi")), 10).ids


@pytest.mark.fault(54)
def test_a_template_that_is_endless_only_for_longer_conversations_costs_one_deadline(strict: TemplateRenderer) -> None:
    later = "{% if messages | length > 4 %}" + ENDLESS["nested ranges"] + "{% endif %}" + CHATML
    builder = PromptBuilder(byte_level(later), "", 4096, "later")
    talk = ask(user("a"), bot("b"), user("c"), bot("d"), user("e"))
    assert builder.build(ask(user("a")), 10).ids
    with pytest.raises(RequestFailed, match=r"template of later takes longer than 1 s, for a conversation of 5 turns"):
        builder.build(talk, 10)
    assert strict.pid is None, "its process was ended"
    with pytest.raises(RequestFailed, match="takes longer than 1 s"):
        builder.build(talk, 10)
    assert strict.pid is None, "nobody was asked again"
    assert builder.build(ask(user("a")), 10).ids


def test_what_a_long_conversation_needs_is_not_cut(strict: TemplateRenderer) -> None:
    turns = [turn for number in range(200) for turn in (user(f"Question {number}"), bot("An answer. " * 20))]
    built = PromptBuilder(byte_level(CHATML), "", 200_000).build(ask(*turns, user("And?")), 10)
    assert built.dropped_turns == 0


def test_gaps_are_remembered_unless_they_tell_the_time(strict: TemplateRenderer) -> None:
    steady = PromptBuilder(byte_level(CHATML), "", 4096)
    dated = PromptBuilder(byte_level("{{ strftime_now('%H:%M:%S.%f') }}" + CHATML), "", 4096)
    strict.close()
    steady.build(ask(user("Hi"), bot("Ho"), user("Hi")), 10)
    assert strict.pid is None, "3 turns were probed at the load"
    first = dated.build(ask(user("Hi")), 10).ids
    assert strict.pid is not None
    assert dated.build(ask(user("Hi")), 10).ids != first


@pytest.mark.parametrize(
    "template", [{"tool_use": CHATML, "rag": CHATML}, [CHATML], 7], ids=["named", "list", "number"]
)
def test_several_templates_and_no_default_is_a_sentence(strict: TemplateRenderer, template: object) -> None:
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="The chat template of odd is not a single text; choose another model"):
        PromptBuilder(tokenizer, "", 4096, "odd")


def test_of_several_templates_the_default_is_taken(strict: TemplateRenderer) -> None:
    tokenizer = byte_level(CHATML)
    plain = PromptBuilder(tokenizer, "", 4096).build(ask(user("Hi")), 10).ids
    tokenizer.chat_template = {"tool_use": PHI_4_TWICE, "default": CHATML}
    assert PromptBuilder(tokenizer, "", 4096).build(ask(user("Hi")), 10).ids == plain


def test_too_many_special_tokens_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.text.encoding.MOST_CONTROL", 2)
    with pytest.raises(
        ModelError, match=r"The tokenizer of odd has 3 special tokens .* the limit is 2 .*another model"
    ):
        PromptBuilder(byte_level(CHATML), "", 4096, "odd")


@pytest.mark.fault(54)
def test_a_child_that_ended_while_idle_is_replaced_unnoticed(renderer: TemplateRenderer) -> None:
    tokenizer = byte_level(CHATML)
    said = ours(renderer, tokenizer, CHATML, True)
    assert renderer.pid is not None
    os.kill(renderer.pid, signal.SIGKILL)
    assert ours(renderer, tokenizer, CHATML, True) == said


@pytest.mark.fault(54)
def test_a_child_that_is_stopped_is_killed(renderer: TemplateRenderer) -> None:
    tokenizer = byte_level(CHATML)
    ours(renderer, tokenizer, CHATML, True)
    assert renderer.pid is not None
    os.kill(renderer.pid, signal.SIGSTOP)
    with pytest.raises(TemplateExceeded, match="takes longer than 1 s"):
        ours(renderer, tokenizer, CHATML, True)
    assert ours(renderer, tokenizer, CHATML, True)


ORPHANED = """
import threading
from bot.engine.text.template_renderer import TemplateRenderer
renderer = TemplateRenderer(5.0)
renderer.render("ready", [], {})
print(renderer.pid, flush=True)
try:
    renderer.render("{{ 10**(10**9) }}", [], {}) if TEMPLATE else threading.Event().wait()
except Exception:
    pass
"""


@pytest.mark.fault(54)
@pytest.mark.parametrize("rendering", [True, False], ids=["rendering", "idle"])
def test_the_child_ends_with_a_parent_that_was_killed(rendering: bool) -> None:
    script = ORPHANED.replace("TEMPLATE", str(rendering))
    root = Path(__file__).parents[3]
    parent = subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE, cwd=root)
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        while rendering and child.cpu_times().user < 0.5:  # it has started
            time.sleep(0.05)
        parent.kill()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)  # while one operation computes, its limit of CPU time ends it


def test_the_child_is_light(renderer: TemplateRenderer) -> None:
    renderer.close()
    renderer.render("ready", [], {})
    assert renderer.pid is not None
    child = psutil.Process(renderer.pid)
    assert child.memory_info().rss < 60 << 20
    assert not [library.path for library in child.memory_maps() if "torch" in library.path]


@pytest.mark.fault(54)
def test_the_search_for_tokens_is_the_same_as_a_pattern_s_and_grows_with_the_text() -> None:
    texts = ["<|a|>", "<|ab|>", "<|a|>b", "[INST]", "<", "é"]
    found = list(LiteralMatcher(texts).all("x<|a|>b<|ab|><<[INST]é[INST"))
    assert ["x<|a|>b<|ab|><<[INST]é[INST"[begin:end] for begin, end in found] == [
        *("<|a|>b", "<|ab|>", "<", "<", "[INST]", "é")
    ]
    many = LiteralMatcher([f"<|s_{number}|>" for number in range(65_536)])
    taken = []
    for size in (1 << 14, 1 << 18):
        began = time.process_time()
        assert not list(many.all("<|s_" * (size // 4)))
        taken.append(time.process_time() - began)
    assert taken[1] < 100 * max(taken[0], 0.001), "16 times the text"
    assert CROOKED
