"""README.md names a test for each thing that it promises: all of them are there."""

import re

from harness import ROOT


def named():
    """(file, test) for each `file::test` in the README's tables."""
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("|"):
            yield from re.findall(r"`([\w./]+)::(\w+)`", line)


def test_the_tests_in_the_table_exist():
    found = list(named())
    assert len(found) > 40, "the table is gone, or looks different"
    for file, test in found:
        if file.endswith(".py"):
            text, pattern = (ROOT / "chaos-tests" / "e2e" / file).read_text(), rf"^def {test}\("
        else:
            # Of cmocka's tests only those that are in the list that is run.
            text, pattern = (ROOT / file).read_text(), rf"cmocka_unit_test\w*\({test}[,)]"
        assert re.search(pattern, text, re.M), f"{file} has no test {test}"
