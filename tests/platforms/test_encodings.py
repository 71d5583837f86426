"""Tests that files in the encodings from before UTF-8 are read right, short ones too."""
# ruff: noqa: RUF001 -- letters of many languages

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.platforms.encodings import detect
from bot.platforms.textfiles import MAX_BYTES, decoded, read_as_text
from bot.types.messages import Attachment

SIMPLIFIED = """这是一个测试文件，内容是中文。请阅读并回答下面的问题。
数据库连接失败：请检查用户名和密码是否正确。
会议改到星期三下午三点，请大家准时参加。
姓名,城市,年龄
你好"""
TRADITIONAL = """這是一個測試檔案，內容是中文。請閱讀並回答下面的問題。
資料庫連線失敗：請檢查使用者名稱和密碼是否正確。
姓名,城市,年齡
謝謝大家的幫助！
你好"""
JAPANESE = """これは日本語のテキストファイルです。質問に答えてください。
データベースに接続できません：ユーザー名とパスワードを確認してください。
会議は水曜日の午後三時に変更されました。
名前,都市,年齢
エラー"""
KOREAN = """이것은 한국어 텍스트 파일입니다. 질문에 답해 주세요.
데이터베이스에 연결할 수 없습니다: 사용자 이름과 비밀번호를 확인하세요.
이름,도시,나이
안녕하세요"""
RUSSIAN = """Это текстовый файл на русском языке. Ответьте, пожалуйста, на вопрос.
Не удалось подключиться к базе данных: проверьте имя и пароль.
Имя,Город,Возраст
Привет"""
UKRAINIAN = """Протокол зустрічі: наступної середи обговоримо її перенесення.
Не вдалося під'єднатися до бази даних: перевірте ім'я та пароль.
Привіт, Україно"""
GREEK = """Αυτό είναι ένα αρχείο κειμένου στα ελληνικά.
Σήμερα ο καιρός είναι καλός, πάμε μια βόλτα στο πάρκο."""
CZECH = """Příliš žluťoučký kůň úpěl ďábelské ódy.
Nelze se připojit k databázi: zkontrolujte jméno a heslo.
Jméno,Město,Věk
Děkuji za pomoc!"""
POLISH = """Zażółć gęślą jaźń. To jest plik tekstowy po polsku.
Nie można połączyć się z bazą danych: sprawdź nazwę i hasło.
Imię,Miasto,Wiek
Cześć"""
HUNGARIAN = """Árvíztűrő tükörfúrógép. Ez egy magyar szövegfájl.
Szabó,Győr,32
Köszönöm a segítséget!"""
GERMAN = """Grüße aus Köln! Das ist eine Textdatei mit Umlauten: äöüß ÄÖÜ.
Name,Straße,Größe
Übung"""
FRENCH = """Voilà l'été, allons nous promener à la forêt.
Prénom,Ville,Âge
“Bonjour” – dit-elle… 5 €
café"""
SPANISH = """¿Cómo está usted? El niño comió piña mañana por la mañana.
España
¡Qué día!"""
TEXTS = [
    *((SIMPLIFIED, "gbk"), (TRADITIONAL, "big5"), (JAPANESE, "euc-jp"), (JAPANESE, "shift_jis"), (KOREAN, "euc-kr")),
    *(
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (UKRAINIAN, "cp1251"),
        (UKRAINIAN, "koi8-u"),
        (GREEK, "cp1253"),
        (CZECH, "cp1250"),
        (POLISH, "cp1250"),
    ),
    *((CZECH, "iso8859-2"), (POLISH, "iso8859-2"), (HUNGARIAN, "iso8859-2"), (JAPANESE, "iso-2022-jp")),
    *((HUNGARIAN, "cp1250"), (GERMAN, "cp1252"), (FRENCH, "cp1252"), (SPANISH, "cp1252")),
]
WITHOUT_MARK = [
    (text, encoding)
    for text in (SIMPLIFIED, TRADITIONAL, JAPANESE, KOREAN, RUSSIAN, UKRAINIAN, GREEK, CZECH)
    for encoding in ("utf-16-le", "utf-16-be")
]
LINES = [(line, encoding) for text, encoding in TEXTS for line in (text, *text.splitlines())]


@pytest.mark.parametrize(("text", "encoding"), LINES)
def test_text_is_read_in_its_encoding(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text
    code = f"def f(x):\n    return x + 1  # {text}\n"
    assert decoded(code.encode(encoding)) == code


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_a_long_file_is_read_by_its_first_lines_beyond_ascii(text: str, encoding: str) -> None:
    long = "# a comment, a comment\n" * 4000 + f"{text}\n" * 30
    assert decoded(long.encode(encoding)) == long


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_a_damaged_byte_changes_only_its_character(text: str, encoding: str) -> None:
    data = f"{text}\n{text}\n".encode(encoding)
    read = decoded(data[:-1] + b"\xff\n")
    assert read is not None
    assert read.startswith(text)


@given(st.data())
def test_any_two_lines_are_read_right(data: st.DataObject) -> None:
    text, encoding = data.draw(st.sampled_from(TEXTS))
    lines = data.draw(st.permutations(text.splitlines()))[:2]
    joined = data.draw(st.sampled_from(["\n", "\r\n", " ", ", "])).join(lines)
    assert decoded(joined.encode(encoding)) == joined


@pytest.mark.parametrize(
    "text", ["5 µm ± 2", "½ cup", "x² + y³", "10 £", "it’s", "Il va à Paris", "© 2024 Müller", "20 °C", "¬ ¶", "5 × 3"]
)
def test_a_few_western_characters_are_read_right(text: str) -> None:
    assert decoded(text.encode("cp1252")) == text


@pytest.mark.parametrize("size", [200, 2000, 20_000])
def test_random_bytes_are_no_text(size: int) -> None:
    assert decoded(os.urandom(size)) is None


@pytest.mark.parametrize(
    ("data", "text", "remark"),
    [
        ("grüße".encode() + b"\xff", "grüße\ufffd", "`a.txt` has 1 damaged character, which I read as \ufffd."),
        ("grüße an alle 🙂".encode()[:-1], "grüße an alle \ufffd", "1 damaged"),
        ("all ASCII but the last 🙂".encode()[:-2], "all ASCII but the last \ufffd", "1 damaged"),
        (b"one \x00 in a text, one \x00", "one \ufffd in a text, one \x00", "not a text file"),
        (b"one \x00 in a text", "one \ufffd in a text", "1 damaged"),
        ("grüße\n".encode() * 20 + b"\xc3\xc3", "grüße\n" * 20 + "\ufffd\ufffd", "2 damaged characters"),
        ("hello, without a mark".encode("utf-16-le"), "hello, without a mark", ""),
        ("hello, without a mark".encode("utf-16-be"), "hello, without a mark", ""),
        ("grüße\n".encode("utf-16")[:-1], "grüße\ufffd", "1 damaged"),
        (bytes(range(256)) * 4, "", "not a text file"),
        (b"PK\x03\x04" + b"\x14\x00\x00\x00\x08\x00" * 20, "", "not a text file"),
    ],
)
def test_damage_is_replaced_and_told(data: bytes, text: str, remark: str) -> None:
    read = read_as_text("a.txt", data)
    if isinstance(read, str):
        assert remark in read
    else:
        assert (read.name, read.text) == ("a.txt", text)
        assert remark in read.remark


@pytest.mark.parametrize(("text", "encoding"), WITHOUT_MARK)
def test_utf_16_without_a_mark_is_read(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text


def test_a_remark_is_only_about_damage() -> None:
    assert read_as_text("a.txt", GERMAN.encode("cp1252")) == Attachment("a.txt", GERMAN)


@pytest.mark.parametrize("line", ["日本語のテキスト\n", "Не удалось подключиться\n", "x"])
def test_detection_takes_no_longer_for_a_file_of_the_greatest_size(line: str) -> None:
    data = (line * MAX_BYTES).encode("shift_jis", "replace")[:MAX_BYTES]
    began = time.process_time()
    detect(data)
    assert time.process_time() - began < 1
