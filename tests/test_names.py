"""What a name from a file may be, and what it may not."""

import pytest

from umamba.names import name_fault


@pytest.mark.parametrize("name", ["case_1", "Fall 7 (links)", "größe", "症例", "a.b.c", "x..y", "[1]", "😀", "a" * 200])
def test_names_of_real_cases(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        (".writing-case_1", "begins with a dot"),
        ("../home", "path separator"),
        ("a/../../b", "path separator"),
        ("/etc", "path separator"),
        ("..\\home", "path separator"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\x1b[2J", "control character"),
        ("a\u2028b", "control character"),
        ("a\udcffb", "control character"),
        ("ü" * 101, "longer than 200 bytes"),
        (None, "must be text, it is a NoneType"),
        (7, "must be text, it is a int"),
        (["a"], "must be text, it is a list"),
    ],
)
def test_names_that_are_none(name: object, fault: str) -> None:
    assert fault in name_fault(name)
