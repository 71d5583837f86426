"""Reads the commands in systemd/README.md by heading, for a systemd without network.

Removes `sudo`, because everything in the systemd runs as root, and replaces lines that download by `FETCHED`.
"""

from tests.support.systemd.booted_systemd import ROOT

README = ROOT / "systemd" / "README.md"
CHECKOUT = "tar -C /opt/source --exclude=./.git --exclude=./.venv* -c . | tar -x --one-top-level=inhouse && cd inhouse"
FETCHED = {
    "sudo apt install git python3-venv": "true",
    "git clone <this repository> inhouse && cd inhouse": CHECKOUT,
    "git pull": "echo 'UPGRADED = True' >>bot/__init__.py",
}
"""Replacements of lines that download."""


def steps() -> dict[str, str]:
    """The commands under each heading, in order."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in README.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("    "):
            found.setdefault(heading, []).append(_in_the_lab(line.strip()))
    return {heading: "\n".join(lines) for heading, lines in found.items()}


def _in_the_lab(command: str) -> str:
    mine = FETCHED.get(command, command.removeprefix("sudo ").replace("| sudo ", "| "))
    # By default systemd-creds uses a TPM or a key on disk, and the systemd has neither.
    return mine.replace("systemd-creds encrypt", "systemd-creds encrypt --with-key=host")
