"""Tests the names of GGUF files: of a repository, by quantization, and of split models."""

import re

import pytest

from bot.models.gguf_names import choose, is_file_name, is_tag, label_of, models_in, part_names, stem
from bot.models.model_spec import is_repository
from bot.types.errors import ModelError

SPLIT = [f"Q8_0/Phi-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
MORE = ["README.md", "mmproj-Phi-F16.gguf", "mtp-Phi-Q4_K_M.gguf"]
LISTING = [*MORE, "Phi-Q4_K_M.gguf", "Phi-Q4_K_S.gguf", "phi.Q5_0.gguf", *SPLIT]


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("Phi-Q4_K_M.gguf", "Phi-Q4_K_M.gguf"),
        ("phi-q4_k_m.gguf", "Phi-Q4_K_M.gguf"),
        ("Q4_K_M", "Phi-Q4_K_M.gguf"),
        ("q5_0", "phi.Q5_0.gguf"),
        ("Q8_0", SPLIT[0]),
        (SPLIT[1], SPLIT[0]),
        ("Phi-Q8_0-00001-of-00002.gguf", SPLIT[0]),
    ],
)
def test_a_file_is_chosen_by_name_or_quantization(tag: str, file: str) -> None:
    assert choose("acme/phi", tag, LISTING) == file


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("Q4_K", "acme/phi has no file for Q4_K; there are Phi-Q4_K_M.gguf, Phi-Q4_K_S.gguf, Q8_0/"),
        ("F16", "acme/phi has no file for F16"),
        ("other.gguf", "acme/phi has no file for other.gguf"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(tag: str, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        choose("acme/phi", tag, LISTING)
    assert str(caught.value).startswith(sentence)
    assert "mmproj" not in str(caught.value)


def test_an_ambiguous_quantization_lists_the_files() -> None:
    with pytest.raises(
        ModelError, match=r"several files for Q4_K_M: name one .* as acme/x:a-Q4_K_M\.gguf; there are a-"
    ):
        choose("acme/x", "Q4_K_M", ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"])


def test_at_most_a_dozen_files_are_listed() -> None:
    names = [f"model-{number:02}-Q4_0.gguf" for number in range(50)]
    with pytest.raises(ModelError, match="and 38 more") as caught:
        choose("acme/x", "Q8_0", names)
    assert str(caught.value).count(".gguf") == 12


def test_a_repository_of_safetensors_says_so() -> None:
    with pytest.raises(ModelError, match="holds no GGUF files; a model of safetensors is named without ':'"):
        choose("acme/x", "Q4_K_M", ["model.safetensors"])


@pytest.mark.parametrize(
    "name",
    [
        "../secret.gguf", "a/../../b.gguf", "/etc/model.gguf", "a//b.gguf", "~/x.gguf", "..gguf", ".gguf", "a\\b.gguf",
        "C:\\x.gguf", "a\nb.gguf", "a\0.gguf", "a:b.gguf", "./a.gguf", "x" * 300 + ".gguf", "a.gguf/", "dir./a.gguf",
        "a?b.gguf", "a*.gguf", "‮fugg.gguf", "model.bin", "",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused_everywhere(name: str) -> None:
    assert not is_file_name(name)
    assert not is_tag(name) or re.fullmatch(r"[\w.-]+", name), "a label has no separators"
    assert models_in([name]) == []


@pytest.mark.parametrize(
    ("word", "valid"),
    [
        ("bartowski/Phi-4-GGUF:phi-4-Q4_K_M.gguf", True),
        ("acme/x:Q4_K_M", True),
        ("acme/x:UD-Q4_K_XL", True),
        ("acme/x:sub/a-00001-of-00002.gguf", True),
        ("acme/x", True),
        ("acme/x:", False),
        ("acme/x:../a.gguf", False),
        ("acme/x:a:b", False),
        ("acme:x", False),
        ("x:Q4_0", False),
    ],
)
def test_words_for_repositories(word: str, valid: bool) -> None:
    assert is_repository(word) is valid


@pytest.mark.parametrize("name", ["a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-00001-of-99999.gguf"])
def test_impossible_parts_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="not a part of a split model"):
        part_names(name)


def test_parts_and_stems() -> None:
    assert part_names("d/a-00002-of-00002.gguf") == ("d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf")
    assert part_names("a.gguf") == ("a.gguf",)
    assert stem("d/a.b-00002-of-00002.gguf") == "a.b"
    assert [label_of(name) for name in ("a-Q4_K_M.gguf", "a.IQ4_XS.gguf", "a-mxfp4.gguf", "a.gguf")] == [
        "Q4_K_M",
        "IQ4_XS",
        "MXFP4",
        "",
    ]
