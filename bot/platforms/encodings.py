"""Detects the encoding of text in one of the encodings that were common before UTF-8; pure.

charset-normalizer needs about a paragraph to tell them apart. So candidates are ranked first by how common their
letters are in the languages that use them, which takes a few words; charset-normalizer decides where no language fits.
"""
# ruff: noqa: RUF001 -- letters of many languages

import codecs
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

from charset_normalizer import from_bytes

SAMPLE_BYTES = 4000
"""Bytes that are looked at; detection takes up to 0.1 s for this much."""
MAX_DAMAGE = 0.05
"""Share of the characters beyond ASCII that may be damaged."""
MIN_BYTES = 16
"""charset-normalizer guesses from fewer bytes."""
_UTF = ["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7"]
GOOD, FAIR = 0.5, 0.3
"""Scores above which the letters of a text fit a language; and above which they are taken where nothing else fits."""

_SIMPLIFIED = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法"
    "学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日者意无力与长把机十民第公此已工使情明性知全三又关点正业外将"
    "两高间由问很最重并手应向头文体相见被利什二等产或新己制身果加西月话合回特代内信表化给世位次度门任常先通教原东声提立及比员解水名真"
    "论处各入几口认条平系气题活更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直资命许统区保至形空据请错误谢密码"
)
_TRADITIONAL = (
    "的是不一我有大在人了中到資要以可這個你會好為上來學就交也用能如時文說沒他看那問生提下過請天對於年後們自地國之得多同都發想家然小還無"
    "作事而前面行本最電分心道法出現實起樣開所方因但其間新名主經將工當動定部體機成高長點只種與者使從情已日信把女話正很進應相見些關十它西"
    "給再外公比意力件第二三數字表號碼連線讀確認密庫址設檔案錯誤謝"
)
_JAPANESE = (
    "日一国人年大二本中長出三時行見月分後前生五間上東四今金入学高円子下来気小山話女書先名水半男電校語土聞車何万毎白天会同事自社発者地業"
    "方新場員立開手力問代明動京目通言理体田主題意不作用度強公持思家世多正安院心教文元重近考画知道集別物使品計私始終台広真有口少料工建空"
    "急止送切転研足究着質待試験味写字答注図週色定設確変更接続保証期議"
)
_KOREAN = (
    "이다는의에을를가고하지은한로사기도서자인대그리어시으나제아수정라과부일해만상보주여전들면원니장성동안세구습게있합요것적경소실조용위단오"
    "내할없되었무관스마드치공연방신생문행음미유체중회명물등터우학교비파름번호설결답질류글국말데된함"
)
_KANA = "".join(map(chr, range(0x3041, 0x30FF)))
_COMMON_CJK = frozenset(_SIMPLIFIED + _TRADITIONAL + _JAPANESE + _KOREAN + _KANA)
FIRST_CJK = 0x2000
"""Below are the alphabets, each in one or two blocks of 256 characters."""
_PUNCTUATION = "“”„‘’‚–—…€°§¶¬«»· µ±²³¼½¾×÷£¥©®™ºª•"
_CJK_PUNCTUATION = "".join(map(chr, [*range(0x3000, 0x3003), *range(0x300C, 0x3010), *range(0xFF01, 0xFF5F)]))

_WESTERN = (
    "äöüß",
    "éèêëàâçîïôùûüœ",
    "áéíóúüñ¿¡",
    "áâãàçéêíóôõúü",
    "àèéìíîòóùú",
    "åäöé",
    "åæøéò",
    "éëïèóöü",
    "áðéíóúæö",
)
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîşţ", "čćđšž")
_TURKISH = ("çğıöşüâîİ",)
_CENTRAL_LETTERS = frozenset("kwzjyKWZJY")
"""Letters without accents that are rare in the Western languages whose accents look like those of Central Europe."""
_CENTRAL_SHARE = 0.08

_ALPHABETS: Mapping[str, tuple[str, str, str]] = {  # the commonest letters, the first and the last one
    "cp1251": ("оеаинтсрвлкмдпуі", "Ѐ", "ґ"),
    "koi8_u": ("оеаинтсрвлкмдпуії", "Ѐ", "ґ"),  # KOI8-R with four more letters
    "cp1253": ("αοιετνσρκπμλυηςάέίό", "Ά", "ώ"),
    "cp1255": ("יוהלאתרםבש", "א", "ת"),
    "cp1256": ("الينمرتوبدسعهة", "ء", "ي"),
}
_MIXED = re.compile(r"[^\W\d_A-Za-z][A-Za-z]|[A-Za-z][^\W\d_A-Za-z]")
_LONE = re.compile(r"(?<!\w)[^\W\d_A-Za-z](?!\w)")
_WORD = re.compile(r"[^\W\d_A-Za-z]{2}")
_SYMBOL_IN_WORD = re.compile(r"[±²³¼½¾×÷£¥©®™•§][^\W\d_]")
_LONG_ACCENTED = re.compile(r"[^\W\d_A-Za-z]{3}")


def detect(data: bytes) -> str | None:
    """The name of the encoding of text that is not UTF-8; None if it is probably no text."""
    sample = _sample(data)
    scores = {name: score(text) for name, score in _SCORES.items() if (text := _decoded(sample, name))}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None or scores[best] < GOOD:
        match = from_bytes(sample, cp_exclusion=_UTF).best() if len(sample) >= MIN_BYTES else None
        return match.encoding if match else best if best and scores[best] > FAIR else None
    if best == "cp1252" and scores.get("cp1250") == scores[best] and _is_central(sample):
        return "cp1250"
    return best


def is_of_one_script(text: str) -> bool:
    """Whether most letters of a text are of one alphabet, or are common Chinese, Japanese or Korean characters.

    Data that is read as UTF-16 and is something else has letters of many scripts, or rare characters.
    """
    other = [char for char in text[:SAMPLE_BYTES] if not char.isascii() and char not in _CJK_PUNCTUATION + _PUNCTUATION]
    alphabet = Counter(ord(char) >> 8 for char in other if ord(char) < FIRST_CJK).most_common(1)
    largest = alphabet[0][1] if alphabet else 0
    return bool(other) and max(largest, 1.5 * sum(char in _COMMON_CJK for char in other)) >= 0.8 * len(other)


def _sample(data: bytes) -> bytes:
    """The first lines that are not ASCII."""
    lines, length = [], 0
    for line in data.splitlines(keepends=True):
        if not line.isascii():
            lines.append(line)
            length += len(line)
        if length >= SAMPLE_BYTES:
            break
    return b"".join(lines)[:SAMPLE_BYTES]


def _decoded(sample: bytes, encoding: str) -> str:
    """The decoded sample, which may end inside a character; '' if much of it is not in this encoding."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    other = sum(not char.isascii() for char in text)
    return text if text.count("\ufffd") <= MAX_DAMAGE * other else ""


def _is_central(sample: bytes) -> bool:
    letters = re.findall("[A-Za-z]", sample.decode("ascii", "ignore"))
    return sum(letter in _CENTRAL_LETTERS for letter in letters) > _CENTRAL_SHARE * len(letters)


def _accents(languages: tuple[str, ...]) -> Callable[[str], float]:
    """Score of a Latin alphabet: the share of letters that one of the languages has."""

    def score(text: str) -> float:
        other = [char for char in text.lower() if not char.isascii()]
        best = max(sum(char in language or char in _PUNCTUATION for char in other) for language in languages)
        odd = 2 * len(_LONG_ACCENTED.findall(text)) + _odd_case(text) + len(_SYMBOL_IN_WORD.findall(text))
        symbols, lone = sum(char in _PUNCTUATION for char in other), len(_LONE.findall(text))
        return (best - odd - 0.2 * symbols - 0.3 * lone) / max(1, len(other))

    return score


def _letters(common: str, first: str, last: str) -> Callable[[str], float]:
    """Score of another alphabet: the share of its letters, and of its commonest ones."""

    def score(text: str) -> float:
        other = [char for char in text if not char.isascii()]
        known = sum(first <= char <= last or char in _PUNCTUATION for char in other)
        frequent = sum(char in common for char in text.lower())
        odd = len(_MIXED.findall(text)) + _odd_case(text) + sum(map(str.isupper, other)) / 4
        if not _WORD.search(text):
            return 0.0  # single letters, as the French a with its accent
        return (0.3 * known + 0.7 * frequent - odd) / max(1, len(other)) + 0.1

    return score


def _odd_case(text: str) -> int:
    """How often a capital letter follows a small one: reading an encoding as another one often swaps the case."""
    return sum(before.islower() and after.isupper() for before, after in pairwise(text))


def _characters(common: str, encoding: str, first: int, last: int) -> Callable[[str], float]:
    """Score of a script with thousands of characters: the share of the commonest ones, and of the first level's."""
    frequent = frozenset(common)

    def value(char: str) -> float:
        if char in frequent:
            return 1.0
        if char in _CJK_PUNCTUATION:
            return 0.7
        code = char.encode(encoding, "ignore")
        return 0.45 if len(code) == 2 and first <= code[0] <= last else 0.0

    def score(text: str) -> float:
        other = [char for char in text if not char.isascii()]
        return sum(map(value, other)) / max(1, len(other))

    return score


_SCORES: Mapping[str, Callable[[str], float]] = {  # of equal scores the first one wins
    "cp1252": _accents(_WESTERN),
    "gb18030": _characters(_SIMPLIFIED, "gb2312", 0xB0, 0xD7),
    "big5": _characters(_TRADITIONAL, "big5", 0xA4, 0xC6),
    "euc_jp": _characters(_JAPANESE + _KANA, "euc_jp", 0xB0, 0xCF),
    "cp932": _characters(_JAPANESE + _KANA, "euc_jp", 0xB0, 0xCF),
    "cp949": _characters(_KOREAN, "euc_kr", 0xB0, 0xC8),
    "cp1250": _accents(_CENTRAL),
    "iso8859_2": _accents(_CENTRAL),  # of two readings with the same letters, the first one
    "cp1254": _accents(_TURKISH),
    **{name: _letters(*alphabet) for name, alphabet in _ALPHABETS.items()},
}
