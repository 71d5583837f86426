"""Hypothesis strategies of valid and broken Markdown, for tests of the dialects, links and splitter."""

from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

GOOD, BAD = "https://good.example/a_(b)", "https://bad.example/x"
"""A URL that a person wrote, and one that only the model wrote."""

INLINE = st.one_of(
    st.sampled_from(["word", "two words.", " ", "**", "[1]", "x | y", "|", "http", "https:/"]),
    st.sampled_from(["`", "``", "```", "`code`", "``a ` b``", "`x", "\\", "\\`", "!", "[", "](", ")"]),
    st.sampled_from([BAD, GOOD, f"`{BAD}`", f"<{BAD}>", f"({BAD})", f"{BAD}.", f"_{BAD}_"]),
    st.sampled_from([f"[label]({BAD})", f"[l `c`]({GOOD})", f"![i](<{BAD}>)", f'[t]({BAD} "title")']),
    st.sampled_from(["a://", "x@", "x@y.", "www", "www.", "discord", ".gg/", "(a", "((", "))", "mailto:", "<a:"]),
)
OTHER_LINKS = st.sampled_from(
    [
        *(" discord.gg/bad.example ", "<slack://bad.example/x>", "(discord://-/bad.example)", " www.bad.example/x. "),
        *(
            " me@bad.example ",
            " mailto:me@bad.example?subject=x ",
            "[x](tel:bad.example)",
            "[x](steam://bad.example/1)",
        ),
        *(
            "![x](<discord://bad.example>)",
            "[a [b] c](javascript:bad.example)",
            "[x](www.bad.example)",
            "<x:/bad.example>",
        ),
        *(
            "[x](me@bad.example)",
            " https://discord.com/invite/bad.example ",
            " discord.new/bad.example ",
        ),
    ]
)
"""Links in unusual forms, which only the model wrote."""
LINES = st.lists(INLINE, max_size=8).map("".join)
BLOCKS = st.one_of(
    LINES,
    st.sampled_from(
        ["", "# Heading", "| a | bb |\n|---|:-:|\n| 1 | 2 |", "a | b\n--- | ---\nlong cell | \\| x", "|---|", "-"]
    ),
    st.sampled_from(["```python", "```", "~~~", "~~~sh", "````", "   ```", "- ```", "> ```", "`" * 14]),
    st.sampled_from([f"    print('{BAD}')", "x = `y", "---"]),
)
MARKDOWN = st.lists(BLOCKS, max_size=12).map("\n".join)


def live_urls(markdown: str) -> str:
    """All text that a client may render as a link: everything outside code, and every link target."""
    found: list[str] = []

    def walk(tokens: list[Token]) -> None:
        for token in tokens:
            if token.type in ("text", "html_inline", "html_block"):
                found.append(token.content)
            targets = [str(target) for target in (token.attrGet("href"), token.attrGet("src")) if target]
            found.extend(targets)
            walk(token.children or [])

    walk(MarkdownIt("commonmark", {"html": False}).disable("code").parse(markdown))
    return "\n".join(found)
