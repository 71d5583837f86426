"""systemd/README.md as an operator follows it: its commands, by the heading that they stand under.

In: the text. Out: for each heading that has commands, a script of them, for a lab without network: `sudo` is left out
(everything there is root's), and so are the lines that fetch from elsewhere, of which `FETCHED` has what they leave.
"""

from tests.support.systemd.booted_systemd import ROOT

README = ROOT / "systemd" / "README.md"
CHECKOUT = "tar -C /opt/source --exclude=./.git --exclude=./.venv* -c . | tar -x --one-top-level=inhouse && cd inhouse"
FETCHED = {
    "sudo apt install git python3-venv": "true",
    "git clone <this repository> inhouse && cd inhouse": CHECKOUT,
    "git pull": "echo 'UPGRADED = True' >>bot/__init__.py",
}
"""What a line that fetches is replaced by."""


def steps() -> dict[str, str]:
    """The commands under each heading, in the order of the text."""
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
    # Left to itself it takes a TPM, or a key on a disk, and the lab has neither.
    return mine.replace("systemd-creds encrypt", "systemd-creds encrypt --with-key=host")
