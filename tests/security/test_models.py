"""Tests that a model's directory is data: none of it is executed, and loading makes no connections."""

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import pytest

from bot.config.settings import TOKENS
from bot.engine.client.child_process import ChildProcess
from bot.engine.text.prompts import PromptBuilder
from bot.models.loading import load
from bot.types.errors import ModelError
from tests.models.test_loading import ignore, source
from tests.support.builders.prompt_tokenizers import byte_level
from tests.support.builders.tiny_models import make_tiny

MARK = "was-here"
CODE = f"open({MARK!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model with code of its own, which would write a mark into the working directory."""
    folder = make_tiny("llama", tmp_path / "hostile")
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}.py").write_text(CODE)
    return folder


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_repository_is_never_run(hostile: Path, known: bool) -> None:
    own = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    change(hostile / "config.json", auto_map=own, model_type="llama" if known else "of-its-own")
    change(hostile / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Tokenizer", None]})
    refused: AbstractContextManager[object] = (
        nullcontext() if known else pytest.raises(ModelError, match="running its own code, which Inhouse never does")
    )
    with refused:  # transformers loads architectures that it knows with its own code
        load(source(hostile), ignore)
    assert not Path(MARK).exists()


def test_a_pickle_beside_the_weights_is_not_opened(hostile: Path) -> None:
    shutil.copy(hostile / "configuration.py", hostile / "training_args.bin")
    for name in ("pytorch_model.bin", "optimizer.pt", "model.pkl"):
        (hostile / name).write_bytes(b"cposix\nsystem\n(S'touch was-here'\ntR.")
    load(source(hostile), ignore)
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch was-here') }}",
        "{% set x = ''|attr('__class__') %}{{ x.__base__.__subclasses__() }}",
        "{{ messages.append(messages) }}",
        "{% for x in range(99999999999) %}a{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_stays_in_its_sandbox(template: str) -> None:
    with pytest.raises(ModelError, match="cannot render a conversation") as refused:
        PromptBuilder(byte_level(template), "", 4096)
    assert "root:" not in str(refused.value)
    assert not Path(MARK).exists()


async def test_the_engines_process_has_no_token_and_connects_to_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOKENS.values(), "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "a-secret-of-twenty-four")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    link = await ChildProcess.open()
    environment = psutil.Process(link.pid).environ()
    assert (await link.close()).description == "with status 0"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "a-secret-of-twenty-four" not in environment.values()
