"""README.md names a test for each thing that it promises: all of them are there. The configurations that it shows, and the
example's, are right."""

import re
import subprocess

from harness import BIN, ROOT


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


def sections(text):
    """{section: its text} of a YAML file."""
    return {part.split(":", 1)[0]: part for part in re.split(r"^(?=\w)", text, flags=re.M) if re.match(r"\w", part)}


def check(folder, text):
    """Whether mailraftd takes it, with a certificate and users in place of those of /etc/mailraft."""
    file = folder / "mailraft.yaml"
    file.write_text(text.replace("/etc/mailraft", str(folder)))
    done = subprocess.run([BIN / "mailraftd", "--config", file, "--check-config"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stderr}\nof:\n{text}"


def test_the_configurations_are_right(tmp_path):
    users = tmp_path / "users"
    made = subprocess.run([BIN / "mailraftctl", "password", "alice@example.net"], input="secret\n", capture_output=True, text=True,
                          timeout=60, check=True)
    users.write_text(made.stdout)
    users.chmod(0o640)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=mx1.example.net",
                    "-addext", "subjectAltName=DNS:mx1.example.net", "-keyout", tmp_path / "mx1.example.net.key",
                    "-out", tmp_path / "mx1.example.net.pem"], check=True, capture_output=True, timeout=60)
    least, internet = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    check(tmp_path, least)
    check(tmp_path, "".join({**sections(least), **sections(internet)}.values()))
    check(tmp_path, (ROOT / "deploy" / "mailraft.yaml.example").read_text())
