"""The figures of SECURITY.md are those of the tests."""

from pathlib import Path

from attacks import END, PAGE, START, attacks, cases, table


def test_the_table_of_attacks_is_computed_and_large_enough() -> None:
    stated = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0].splitlines()
    for line, counted in zip(stated[2:], table().splitlines()[2:], strict=True):
        (promise, number, _), (same, now, _) = line.strip("| ").split(" | "), counted.strip("| ").split(" | ")
        assert promise == same and int(number) <= int(now), "run: python tests/attacks.py"
    assert sum(number for number, _ in attacks().values()) >= 150 and min(n for n, _ in attacks().values()) >= 5


def test_cases_are_counted_as_pytest_counts_them(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\nMANY = {'a': 1, 'b': 2, 'c': 3}\nLIST: list = [1, 2]\n"
        "@pytest.mark.parametrize('x', MANY)\n@pytest.mark.parametrize('y', LIST)\n@pytest.mark.slow\n"
        "def test_one(x, y): ...\n@pytest.mark.parametrize('x', sorted(MANY))\ndef test_two(x): ...\n"
    )
    assert cases(tmp_path / "test_x.py") == {"test_one": 6, "test_two": 1}  # what is computed counts once
