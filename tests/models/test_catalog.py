"""Tests the catalog: its contents, additions by the operator, and error messages."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.config.settings import load_settings
from bot.models.catalog import BUILT_IN, REPLACED, Catalog
from bot.models.model_spec import ModelSpec, read_specs
from bot.types.errors import ConfigError, ModelError
from tests.support.builders.tiny_models import make_tiny

MINE = '[[model]]\nname = "mine"\nrepo = "acme/mine"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "catalog.toml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_specs(write(folder, text))
    return str(caught.value)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("models") / "Tiny-Llama")


def test_the_catalog_that_comes_along_is_right() -> None:
    specs = read_specs(BUILT_IN)
    names = [spec.name for spec in specs]
    assert {"phi-4", "phi-2", "mistral-7b-instruct-v0.3", "smollm2"} <= set(names)
    assert names == [spec.name for spec in sorted(specs, key=lambda spec: spec.parameters)], "smallest first"
    for spec in specs:
        assert spec.context_window >= 2048
        assert spec.kv_values_per_token > 0
        assert spec.licence
        assert spec.thinking
        assert bool(spec.efforts) == (spec.thinking != "never")
        assert spec.licence_url.startswith("https://")


def test_smollm2_takes_23_kb_of_cache_a_token() -> None:
    spec = Catalog.of(load_settings()).get("smollm2")
    assert spec.kv_values_per_token * 2 == 23_040


def test_without_settings_everything_may_be_chosen() -> None:
    catalog = Catalog.of(load_settings())
    assert catalog.default == "smollm2"
    assert catalog.names == tuple(sorted(spec.name for spec in catalog))
    assert catalog.get(" Phi-4 ").repo == "microsoft/phi-4"
    assert catalog.choose("PHI-4") == catalog.get("phi-4")


def test_the_operator_narrows_what_people_may_choose() -> None:
    catalog = Catalog.of(load_settings(models=("phi-4", "Acme/Chat-7B"), model="phi-2"))
    assert catalog.names == ("acme/chat-7b", "phi-2", "phi-4")
    assert catalog.choose("acme/CHAT-7b").repo == "Acme/Chat-7B"
    assert catalog.get("smollm2").repo, "the operator's own commands know it still"
    with pytest.raises(ModelError, match="smollm2 is not offered here; there are acme/chat-7b, phi-2, phi-4"):
        catalog.choose("smollm2")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("phi4", "did you mean phi-4"),
        ("mistral", r"did you mean mistral-7b-instruct-v0\.3\?"),
        ("zzzz", "there are .*phi-2"),
        ("acme/other", "list it in INHOUSE_MODELS"),
        ("x" * 500, "…"),
        ("qwen2.5-14b-instruct", "use ministral-3-14b, or its repository Qwen/Qwen2.5-14B-Instruct"),
        ("LLAMA-3.1-8b-instruct", "no longer in the catalog: use ministral-3-8b"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(word: str, sentence: str) -> None:
    catalog = Catalog.of(load_settings())
    for look in (catalog.get, catalog.choose):
        with pytest.raises(ModelError, match=sentence) as caught:
            look(word)
        assert len(str(caught.value)) < 500


def test_a_repository_of_the_catalog_has_its_facts_by_whichever_name() -> None:
    catalog = Catalog.of(load_settings(model="microsoft/Phi-2"))
    assert catalog.default == "microsoft/phi-2"
    spec, own = catalog.get(catalog.default), catalog.get("phi-2")
    assert spec.model_copy(update={"name": "phi-2"}) == own
    assert (spec.template, spec.repetition_penalty) == ("phi-2", 1.1)
    served = Catalog.of_servers(["Qwen/Qwen3.8-27B-FP8", "acme/other"])
    assert served.get(served.default).context_window == 262_144
    assert served.get(served.default).repo == "Qwen/Qwen3.8-27B-FP8"


def test_what_replaces_a_model_is_in_the_catalog_and_the_model_is_not() -> None:
    specs = {spec.name for spec in read_specs(BUILT_IN)}
    assert {better for better, _ in REPLACED.values()} <= specs
    assert not REPLACED.keys() & specs
    with pytest.raises(ConfigError, match=r"use qwen3-1\.7b"):
        Catalog.of(load_settings(model="smollm2-1.7b"))
    assert Catalog.of(load_settings(model="HuggingFaceTB/SmolLM2-1.7B-Instruct")).default


def test_wrong_names_in_the_settings_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.of(load_settings(models=("phi-5", "/nowhere/at/all"), model="smollm3"))
    told = str(caught.value)
    assert "`phi-5`; did you mean" in told
    assert "There is no directory /nowhere/at/all" in told
    assert "`smollm3`; did you mean smollm2" in told


def test_a_directory_becomes_a_model_by_its_name(tiny_dir: Path) -> None:
    catalog = Catalog.of(load_settings(model=str(tiny_dir)))
    assert catalog.default == "tiny-llama"
    spec = catalog.get("tiny-llama")
    assert spec.path == str(tiny_dir)
    assert (spec.layers, spec.kv_heads, spec.head_dim, spec.context_window) == (2, 2, 16, 512)
    assert spec.parameters == pytest.approx(125_000, rel=0.05)
    assert str(tiny_dir) not in catalog.names, "people need not see where it lies"


def test_a_directory_may_not_take_the_name_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would be called phi-4, as another model is"):
        Catalog.of(load_settings(model=str(make_tiny("llama", tmp_path / "phi-4"))))


def test_a_file_adds_models_and_replaces_them_by_name(tmp_path: Path, tiny_dir: Path) -> None:
    text = f'{MINE}\n[[model]]\nname = "phi-2"\npath = "{tiny_dir}"\nsystem = "Be brief."\nstop = ["\\n\\n"]\n'
    catalog = Catalog.of(load_settings(catalog=write(tmp_path, text)))
    assert "mine" in catalog.names
    assert catalog.get("phi-2").system == "Be brief."
    assert catalog.get("phi-2").stop == ("\n\n",)
    assert catalog.get("phi-2").layers == 2, "its own config.json says so"


def test_a_relative_directory_is_one_beside_the_file(tmp_path: Path) -> None:
    make_tiny("llama", tmp_path / "weights")
    (spec,) = read_specs(write(tmp_path, '[[model]]\nname = "near"\npath = "weights"\n'))
    assert Path(spec.path) == tmp_path / "weights"


def test_a_file_that_names_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone: There is no directory"):
        Catalog.of(load_settings(catalog=write(tmp_path, '[[model]]\nname = "gone"\npath = "nowhere"\n')))


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = f"""
    colour = "red"
    {MINE}
    {MINE}
    [[model]]
    repo = "acme/nameless"
    [[model]]
    name = "Bad Name"
    repo = "no-slash"
    template = "phi-3"
    [[model]]
    name = "many"
    repo = "acme/many"
    layers = "forty"
    context_window = -1
    contxt = 3
    """
    told = mistakes(tmp_path, text)
    for sentence in (
        "colour: only [[model]] tables",
        "model 2 (mine): the name is used twice",
        "model 3: name is missing",
        "model 4 (Bad Name): name must be",
        "repo must look like org/name, not 'no-slash'",
        "template must be one of '', 'phi-2'",
        "model 5 (many): layers: input should be a valid integer",
        "context_window: input should be greater than or equal to 0",
        "contxt is not known; there are name, repo",
    ):
        assert sentence in told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[model]\nname = "x"', "write [[model]], with two brackets"),
        ("model = 3", "write [[model]]"),
        ("model = [1]", "model 1:"),
        ('[[model]]\nname = "x"', "give either repo (org/name) or path"),
        (MINE + 'path = "/x"', "give either repo"),
        (MINE + 'stop = [""]', "stop.0"),
        ("[[model", "is not a TOML file"),
        ("a = 2024-13-45", "catalog"),
        ("a = " + "[" * 100_000, "catalog"),
    ],
)
def test_one_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in mistakes(tmp_path, text)


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_specs(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_specs(tmp_path / "latin.toml")


FIELDS = st.sampled_from([*ModelSpec.model_fields, "model", "colour", '"odd key"'])
VALUES = st.sampled_from(
    [
        '""',
        '"x"',
        '"acme/x"',
        "0",
        "-1",
        "7",
        "1e400",
        "nan",
        "true",
        "[]",
        '["a"]',
        "[1]",
        "{}",
        "{a = 1}",
        "1979-05-27",
    ]
) | st.text(max_size=12).map(lambda text: '"' + re.sub(r'[\\"\x00-\x1f\x7f]', "", text) + '"')
TABLES = st.lists(st.tuples(FIELDS, VALUES), max_size=6, unique_by=lambda pair: pair[0])


@given(st.lists(st.tuples(st.sampled_from(["[[model]]", "[model]", "[other]"]), TABLES), max_size=4))
def test_no_tables_make_anything_but_specs_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, tables: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    lines = [line for head, pairs in tables for line in (head, *(f"{key} = {value}" for key, value in pairs))]
    try_to_read(tmp_path_factory, "\n".join(lines).encode())


@pytest.mark.fault(44)
@given(st.binary(max_size=200))
@example(b"a" * 10_000 + b"=1")
@example(b'[[model]]\nname="a"\npath="\\u0000"')
@example(b'[[model]]\nname="a"\npath="~nobody-of-this-name/x"')
@example(b"n = " + b"9" * 5000)
def test_no_bytes_make_anything_but_specs_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    try_to_read(tmp_path_factory, content)


def try_to_read(factory: pytest.TempPathFactory, content: bytes) -> None:
    file = factory.getbasetemp() / "generated.toml"
    file.write_bytes(content)
    try:
        specs = list(Catalog.of(load_settings(catalog=file)))
    except ConfigError as error:
        specs, told = [], str(error)
    else:
        told = ""
    assert bool(specs) != bool(told)
