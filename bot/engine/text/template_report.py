"""Reports what a model's chat template takes: `python -m bot.engine.text.template_report FOLDER TEMPLATE NAME`.

`read_template` runs this module in a one-shot process, which reads the tokenizer; the caller imports no transformers.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bot.engine.client.child_process import child_environment
from bot.models import model_directory
from bot.models.gguf_header import read_gguf
from bot.models.model_files import is_file
from bot.models.model_report import TemplateFacts
from bot.models.sampling_defaults import GENERATION_CONFIG
from bot.types.errors import InhouseError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "the file's own end of text"
"""Stands for the token that ends a text, which is not read from a GGUF file."""
MODULE = "bot.engine.text.template_report"
READ_S = 120.0
"""Timeout for reading a tokenizer and trying its template."""


async def read_template(path: Path, template: str, name: str) -> TemplateFacts:
    """Report what the template of an installed model takes. path: a directory, or a GGUF file.

    template: '' for the tokenizer's own, or a name in bot.engine.text.templates.TEMPLATES. name: the model's. Why a
    template cannot be used is in `TemplateFacts.problem`.
    """
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", MODULE, str(path), template, name]
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=child_environment())
    try:
        told, _ = await asyncio.wait_for(process.communicate(), READ_S)
    except TimeoutError:
        return TemplateFacts(problem=f"the template was not read within {READ_S:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = told.decode(errors="replace").splitlines()
    if process.returncode or not lines:
        return TemplateFacts(problem="the tokenizer cannot be read")
    return TemplateFacts.from_data(json.loads(lines[-1]))


def examine(path: Path, template: str, name: str) -> TemplateFacts:
    """Read a model's tokenizer and try its template. Raises ModelError, and what a damaged tokenizer raises."""
    from bot.engine.text.encoding import SafeEncoder
    from bot.engine.text.templates import ChatTemplate
    from bot.models.tokenizer import read_tokenizer

    if is_file(path):
        tokenizer = _without_tokens(path)
    else:
        model_directory.check_sizes(path)
        tokenizer = read_tokenizer(path)
    encoder = SafeEncoder(tokenizer, name)
    found = ChatTemplate(tokenizer, template, encoder.control, name)
    known = found.capabilities
    ends = [str(tokenizer.convert_ids_to_tokens(end)) for end in _ends(path) if 0 <= end < len(tokenizer)]
    stops = dict.fromkeys([*filter(None, (tokenizer.eos_token,)), *ends, *filter(None, (found.turn_end,))])
    return TemplateFacts(
        system_role=found.system_role,
        consecutive_users=found.takes_neighbours(),
        stops=tuple(stops),
        thinks=bool(known.reasoning),
        efforts=known.efforts or (),
        tools=bool(known.tools),
    )


def _without_tokens(file: Path) -> "PreTrainedTokenizerBase":
    """A tokenizer with the template of a GGUF file and without its tokens, which only llama.cpp reads."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = Tokenizer(models.BPE())
    template = read_gguf(file).template or None
    return PreTrainedTokenizerFast(tokenizer_object=empty, bos_token="", eos_token=END_OF_TEXT, chat_template=template)


def _ends(folder: Path) -> list[int]:
    """The ids in generation_config.json that end an answer."""
    try:
        ends = model_directory.read_json(folder / GENERATION_CONFIG).get("eos_token_id")
    except ModelError:  # there is none
        return []
    return [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]


def main(arguments: Sequence[str]) -> None:
    """Print the facts as one line of JSON."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers would import it: 140 MB for nothing
    folder, template, name = arguments
    try:
        found = examine(Path(folder), template, name)
    except InhouseError as error:
        found = TemplateFacts(problem=str(error))
    except Exception as error:  # a damaged tokenizer may raise anything
        found = TemplateFacts(problem=f"the tokenizer in {folder} cannot be read ({type(error).__name__})")
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
