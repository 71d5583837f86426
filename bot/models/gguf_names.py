"""Names of GGUF files: `owner/repo:file.gguf`, `owner/repo:Q4_K_M`, and the parts of split models.

File names come from users and from repositories, and become paths: only those that `is_file_name` accepts are used.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from bot.types.errors import ModelError

ENDING = ".gguf"
LABEL = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}"
"""A quantization as it is written in file names, such as Q4_K_M."""

PART = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf$", re.IGNORECASE)
"""The end of the name of one file of a split model."""

MOST_PARTS = 1000
MOST_NAME = 200
SHOWN = 12
"""At most this many files are listed in a message."""

OTHER_FILES = ("mmproj", "imatrix", "mtp-")
"""Beginnings of the names of GGUF files without a language model: image encoders, statistics of a quantization, and
heads that draft tokens."""

_COMPONENT = r"[A-Za-z0-9_][\w.+()@=, -]*"
_FILE = re.compile(rf"(?:{_COMPONENT}/)*+{_COMPONENT}", re.ASCII)


def is_file_name(name: str) -> bool:
    """Whether this is the name of a GGUF file in a repository, relative and without '..'."""
    return (
        len(name) <= MOST_NAME
        and name.lower().endswith(ENDING)
        and _FILE.fullmatch(name) is not None
        and not any(part.endswith((".", " ")) for part in name.split("/"))
    )


def is_tag(tag: str) -> bool:
    """Whether this may follow 'owner/repo:': a file's name or a quantization."""
    return is_file_name(tag) or re.fullmatch(LABEL, tag) is not None


def part_names(name: str) -> tuple[str, ...]:
    """The names of all files of the model to which a file belongs, the first one first. Raises ModelError."""
    found = PART.search(name)
    if found is None:
        return (name,)
    count = int(found[2])
    if not 1 <= int(found[1]) <= count <= MOST_PARTS:
        raise ModelError(f"{name} is not a part of a split model, whose names end in -00001-of-00003.gguf.")
    beginning, ending = name[: found.start()], name[-len(ENDING) :]
    return tuple(f"{beginning}-{number:05}-of-{count:05}{ending}" for number in range(1, count + 1))


def parts_of(path: Path) -> tuple[Path, ...]:
    """The paths of all files of the model to which a file belongs, the first one first. Raises ModelError."""
    return tuple(path.with_name(name) for name in part_names(path.name))


def models_in(names: Iterable[str]) -> list[str]:
    """The GGUF files of language models in a listing, sorted; of split models the first file."""
    found = []
    for name in names:
        part = PART.search(name)
        if is_file_name(name) and not _base(name).startswith(OTHER_FILES) and (part is None or int(part[1]) == 1):
            found.append(name)
    return sorted(found)


def choose(repo: str, tag: str, names: Iterable[str]) -> str:
    """Return the (first) GGUF file in a repository's listing that a file name or a quantization means.

    Raises ModelError, with the files that are there, unless it is exactly one.
    """
    names = list(names)
    if is_file_name(tag):
        first = part_names(tag)[0]
        if first in names:
            return first
    models = models_in(names)
    found = [name for name in models if tag.lower() in (name.lower(), _base(name))] or [
        name for name in models if _has_label(name, tag)
    ]
    if len(found) == 1:
        return found[0]
    if not models:
        raise ModelError(f"{repo} holds no GGUF files; a model of safetensors is named without ':', as {repo}.")
    if not found:
        raise ModelError(f"{repo} has no file for {tag}; there {listed(models)}.")
    raise ModelError(
        f"{repo} has several files for {tag}: name one of them, as {repo}:{found[0]}; there {listed(found)}."
    )


def listed(names: list[str]) -> str:
    """'are A, B and 3 more' for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names[:SHOWN])}{more}"


def label_of(name: str) -> str:
    """The quantization that a file's name states, such as Q4_K_M; '' if none is recognised."""
    found = re.findall(
        r"(?<![A-Za-z0-9])((?:I?Q[1-8]|TQ[12])_[A-Z0-9_]+|BF16|F16|F32|MXFP4(?:_MOE)?)(?![A-Za-z0-9])",
        PART.sub("", name).upper(),
    )
    return str(found[-1]) if found else ""


def stem(name: str) -> str:
    """A file's name without directory, part number and ending."""
    base = name.rpartition("/")[2]
    return PART.sub("", base) if PART.search(base) else base[: -len(ENDING)] if base.lower().endswith(ENDING) else base


def _has_label(name: str, label: str) -> bool:
    return re.search(rf"(?:^|[-._]){re.escape(label)}(?:[-.]|$)", stem(name), re.IGNORECASE) is not None


def _base(name: str) -> str:
    return name.rpartition("/")[2].lower()
