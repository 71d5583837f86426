"""Tests which URLs become links: only those that users wrote, in any context."""
# ruff: noqa: RUF001  the punctuation of other scripts is what is tested

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.replies.links import KnownLinks, stable_prefix, urls_in, with_links
from tests.support.builders.markdown_samples import BAD, GOOD, INLINE, LINES, OTHER_LINKS, live_urls

PEOPLE = KnownLinks({GOOD})


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("See https://bad.example/x, please.", "See `https://bad.example/x`, please."),
        ("(https://bad.example/x)", "(`https://bad.example/x`)"),
        ("See https://bad.example/a_(b).", "See `https://bad.example/a_(b)`."),
        ("**https://bad.example/x**", "**`https://bad.example/x`**"),
        ("[the page](https://bad.example/x) says", "the page `https://bad.example/x` says"),
        ('![](<https://bad.example/x> "t")', "`https://bad.example/x`"),
        ("HTTPS://bad.example/x", "`HTTPS://bad.example/x`"),
        ("_https://bad.example/x_", "_`https://bad.example/x`_"),
        ("[`code`](https://bad.example/x)", "`code` `https://bad.example/x`"),
        ("[https://good.example/a_(b)](https://bad.example/x)", "https://good.example/a_(b) `https://bad.example/x`"),
        (
            "[https://bad.example/x](https://good.example/a_(b))",
            "[`https://bad.example/x`](https://good.example/a_(b))",
        ),
        ("https://good.example/a_(b)!", "https://good.example/a_(b)!"),
        ("[it](https://good.example/a_(b))", "[it](https://good.example/a_(b))"),
        ("`curl https://bad.example/x`", "`curl https://bad.example/x`"),
        ("``a ` https://bad.example/x``", "``a ` https://bad.example/x``"),
        ("No link: http is a word, and [1] is a note.", "No link: http is a word, and [1] is a note."),
    ],
)
def test_only_what_a_person_wrote_is_a_link(line: str, shown: str) -> None:
    assert with_links(line, PEOPLE) == shown


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Join discord.gg/x now", "Join `discord.gg/x` now"),
        ("or discord.com/invite/x.", "or `discord.com/invite/x`."),
        ("[x](discord://-/settings)", "x `discord://-/settings`"),
        ("slack://open?team=T1", "`slack://open?team=T1`"),
        ("[call](tel:+123)", "call `tel:+123`"),
        ("tel:+123", "`tel:+123`"),
        ("[x](javascript:alert(1))", "x `javascript:alert(1)`"),
        ("[x](FILE:/etc/passwd)", "x `FILE:/etc/passwd`"),
        ("see www.bad.example, or", "see `www.bad.example`, or"),
        ("[x](www.bad.example)", "x `www.bad.example`"),
        ("[x](//bad.example/x)", "x `//bad.example/x`"),
        ("[x](bad.example/y)", "x `bad.example/y`"),
        ("mailto:me@bad.example", "`mailto:me@bad.example`"),
        ("write to me@bad.example.", "write to `me@bad.example`."),
        ("<x-apple:/bad>", "<`x-apple:/bad`>"),
        ("wordhttps://bad.example/x", "word`https://bad.example/x`"),
    ],
)
def test_a_link_of_any_form_that_no_user_wrote_is_code(line: str, shown: str) -> None:
    assert with_links(line, PEOPLE) == shown


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "line",
    [
        "Open file.name or a.b.c, and call discord.Client() of discord.py",
        "handlers[name](compose(transform(validate(parse(text)))))",
        "values[key](std::string) and matrix[row](column), foo[i](a.b)",
        "Note: at 10:30, and/or C:\\dir; x@y, @app.route, e.g. this, www is the web",
        "std::cout << x; <std::string> <@123> <t:456:R> data: none",
    ],
)
def test_what_no_client_makes_a_link_of_stays_as_it_is(line: str) -> None:
    assert with_links(line, KnownLinks()) == line


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "written",
    ["discord.gg/x", "www.good.example", "me@good.example", "discord://-/settings", "https://discord.gg/x", "tel:+123"],
)
def test_a_link_of_any_form_that_a_person_wrote_is_one(written: str) -> None:
    links = KnownLinks(urls_in(f"Look at {written}, please."))
    for line in (f"See {written}.", f"[it]({written})", f"<{written}>", written.removeprefix("https://")):
        assert with_links(line, links) == line


@pytest.mark.fault(46)
@given(st.lists(st.one_of(INLINE, OTHER_LINKS), max_size=8).map("".join))
def test_no_client_ever_sees_a_link_of_another_form_that_no_user_wrote(line: str) -> None:
    assert "bad.example" not in live_urls(with_links(line, PEOPLE))


@pytest.mark.fault(46)
@given(st.lists(st.one_of(INLINE, OTHER_LINKS), max_size=8).map("".join), st.lists(INLINE, max_size=8).map("".join))
def test_what_is_settled_stays_with_links_of_other_forms(line: str, more: str) -> None:
    for end in range(len(line) + 1):
        sure = line[: stable_prefix(line[:end])]
        assert with_links(line + more, PEOPLE).startswith(with_links(sure, PEOPLE))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a ` b https://bad.example/x", "a \\` b `https://bad.example/x`"),
        ("\\`https://bad.example/x`", "\\` `https://bad.example/x` \\`"),
        ("`a`https://bad.example/x`b`", "`a` `https://bad.example/x` `b`"),
        ("\\https://bad.example/x", "\\ `https://bad.example/x`"),
        ("[a [b] c](https://bad.example/x(y))", "[a [b] c] (`https://bad.example/x(y)`)"),
    ],
)
def test_a_backtick_of_the_model_cannot_undo_the_code(line: str, shown: str) -> None:
    assert with_links(line, PEOPLE) == shown
    assert "bad.example" not in live_urls(shown)


@given(LINES)
@example(f"``a``[`b`]({BAD})")
@example(f"{BAD}``a``")
@example(f"`` ` {BAD} ``` `")
def test_no_client_ever_sees_a_link_that_no_user_wrote(line: str) -> None:
    assert "bad.example" not in live_urls(with_links(line, PEOPLE))


@given(LINES, LINES)
def test_what_is_settled_stays_as_it_is_shown(line: str, more: str) -> None:
    sure = line[: stable_prefix(line)]
    assert with_links(line + more, PEOPLE).startswith(with_links(sure, PEOPLE))


def test_plain_prose_is_settled_almost_to_its_end() -> None:
    line = "Here is [1] a note, `code`, https://bad.example/x and more of the same, which goes on"
    assert stable_prefix(line) == len(line) - len("on"), "which may begin `on://` or `on@x.example`"
    assert stable_prefix(f"{line} ") == len(line) + 1
    assert stable_prefix("See https://bad") == stable_prefix("See https://") == stable_prefix("See htt") == len("See ")
    assert stable_prefix("See [the page](https") == len("See ")
    assert stable_prefix("Say `this") == len("Say ")


def test_the_urls_of_a_text_come_without_the_punctuation_around_them() -> None:
    text = f"Look at {GOOD}, ({BAD}) and <http://third.example/?q=1&r=2>!"
    assert urls_in(text) == {GOOD, BAD, "http://third.example/?q=1&r=2"}
    assert urls_in("http is not one, nor is https://") == frozenset()


@given(st.sampled_from(["[", "`", "` ", "[](", "https://)", ")", "!", "\\", "[a](https://x(", "``", "(", '"']))
def test_no_line_takes_long(piece: str) -> None:
    def seconds(length: int) -> float:
        line = f"https://x{piece * length}"
        began = time.process_time()
        stable_prefix(line)
        with_links(line, PEOPLE)
        return time.process_time() - began

    assert seconds(8_000) < 40 * max(seconds(1_000), 0.001)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("已阅读：https://ex.org/a/b，涵盖", "已阅读：https://ex.org/a/b ，涵盖"),
        ("（https://ex.org/a/b）。", "（https://ex.org/a/b ）。"),
        ("看https://ex.org/a/b了解", "看https://ex.org/a/b 了解"),
        ("https://ex.org/a/b。了解", "https://ex.org/a/b 。了解"),
        ("https://ex.org/a/b,了解", "https://ex.org/a/b ,了解"),
        ("https://ex.org/a/b, or", "https://ex.org/a/b, or"),
        ("اقرأ https://ex.org/a/b، ثم", "اقرأ https://ex.org/a/b ، ثم"),
        ("https://ex.org/a/b।", "https://ex.org/a/b ।"),
        ("“https://ex.org/a/b”", "“https://ex.org/a/b ”"),
        ("https://bad.example/x，涵盖", "`https://bad.example/x`，涵盖"),
        ("https://，bad.example/x", "`https://，bad.example/x`"),
        ("https://ex.org｡bad.example/x", "`https://ex.org`｡bad.example/x"),
    ],
)
def test_punctuation_of_any_script_ends_an_address(line: str, shown: str) -> None:
    assert with_links(line, KnownLinks({"https://ex.org/a/b"})) == shown


@given(st.characters(categories=["P"], min_codepoint=0xA1), st.text("aé中", min_size=1, max_size=3))
def test_no_punctuation_outside_of_ascii_is_a_part_of_an_address(mark: str, after: str) -> None:
    assert urls_in(f"中https://ex.org/a{mark}{after}") == {"https://ex.org/a"}


def test_an_address_of_another_script_is_one_and_so_is_its_beginning() -> None:
    assert urls_in("https://ex.org/wiki/中文") == {"https://ex.org/wiki/中文", "https://ex.org/wiki/"}


@pytest.mark.parametrize(
    "variant",
    [
        "https://ex.org/a",
        "https://ex.org/a/",
        "https://www.ex.org/a",
        "HTTPS://WWW.Ex.Org/a/",
        "http://ex.org/a",
        "www.ex.org/a",
    ],
)
def test_a_variant_of_a_known_address_is_known(variant: str) -> None:
    for written in ("https://ex.org/a", "https://www.EX.org/a/"):
        assert with_links(f"See {variant}.", KnownLinks({written})) == f"See {variant}."


@pytest.mark.parametrize(
    "other",
    [
        "https://ex.org/A",
        "https://ex.org/a//",
        "https://ex.org/a?q=1",
        "https://ex.org/a#top",
        "https://ex.org:8443/a",
        "https://ex.org@bad.example/a",
        "https://user@ex.org/a",
        "https://ex.org.bad.example/a",
        "https://bad.example/ex.org/a",
        "https://wwwex.org/a",
        "https://ex.org\\@bad.example/a",
        "ftp://ex.org/a",
    ],
)
def test_another_address_is_none(other: str) -> None:
    assert f"`{other}`" in with_links(f"See {other} now", KnownLinks({"https://ex.org/a"}))


HOSTS = ("docs.example.org", "*.wiki.example", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://docs.example.org/a?b=c#d",
        "http://DOCS.example.org",
        "https://www.docs.example.org/",
        "https://docs.example.org:443/a",
        "https://a.wiki.example/x",
        "https://a.b.WIKI.example/x",
        "https://xn--bcher-kva.example/x",
    ],
)
def test_addresses_of_allowed_hosts_stay_links(url: str) -> None:
    links = KnownLinks((), HOSTS)
    assert with_links(f"See {url} or [it]({url}).", links) == f"See {url} or [it]({url})."
    assert f"`{url}`" in with_links(f"See {url} or", KnownLinks())


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://a.docs.example.org/",
        "https://wiki.example/",
        "https://evilwiki.example/",
        "https://docs.example.org.bad.example/",
        "https://docs.example.org@bad.example/",
        "https://bad.example/@docs.example.org/",
        "https://bad.example\\@docs.example.org/",
        "https://bad.example#@docs.example.org/",
        "https://docs.example.org:8443/",
        "https://docs.example.org./",
        "https://docs.example.org%2ebad.example/",
        "https://dоcs.example.org/",
        "https://bücher.example/x",
        "ftp://docs.example.org/",
        "docs.example.org:80@bad.example/x",
        "javascript://docs.example.org/%0aalert(1)",
        "//docs.example.org\\@bad.example/",
    ],
)
def test_no_other_host_passes_for_an_allowed_one(url: str) -> None:
    assert url not in KnownLinks((), HOSTS)
    assert "](" not in with_links(f"[it]({url}) or", KnownLinks((), HOSTS))
