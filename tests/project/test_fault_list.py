"""Tests the list of faults: each has a test, each mark names one of them, and docs/faults.md is current."""

from pathlib import Path

from tests.fault_list import FAULTS, injected, markdown, table

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_every_fault_is_injected_by_a_test_and_every_mark_is_of_a_fault() -> None:
    tests = injected()
    assert [number for number in FAULTS if number not in tests] == [], "no test injects these"
    assert [names for number, names in tests.items() if number not in FAULTS] == [], "there is no such fault"
    assert list(FAULTS) == list(range(1, len(FAULTS) + 1))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == markdown(injected()) + "\n", "`python -m tests.fault_list --markdown` prints it"


def test_marks_are_found_on_tests_methods_and_single_cases(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "@pytest.mark.fault(1)\n@pytest.mark.fault(2)\nasync def test_both(): ...\n"
        "class Rules:\n    @pytest.mark.fault(2)\n    def rule(self): ...\n"
        "@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.fault(99))])\ndef test_case(x): ...\n"
        "@pytest.mark.timeout(3)\ndef test_other(): ...\n"
    )
    (tmp_path / "helper.py").write_text("@pytest.mark.fault(3)\ndef test_nothing(): ...\n")
    found = injected(tmp_path)
    assert found == {1: ["test_it.py::test_both"], 2: ["test_it.py::test_both", "test_it.py::rule"],
                     99: ["test_it.py::test_case"]}  # fmt: skip
    assert " 3 " in table(found)
    assert "(no test)" in table(found)
    assert "`test_it.py::test_both`<br>`test_it.py::rule` |" in markdown(found)
