"""Takes the README's pictures of the status page: python -m tests.support.screenshots [DIRECTORY]."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support.browser import open_browser
from tests.support.builders.busy_service import finish, run_busy_service


async def take(folder: Path, scratch: Path) -> None:
    """Writes status-light.png and status-dark.png into `folder`."""
    for name in ("setup", "profile"):
        (scratch / name).mkdir()
    async with run_busy_service(scratch / "setup") as (setup, site), open_browser(scratch / "profile") as browser:
        page = await browser.page()
        for name in ("light", "dark"):
            await page.looks(width=1180, height=900, dark=name == "dark")
            await page.open(f"{site.url}/")
            await page.until("document.body?.dataset.shown === 'yes'")
            await page.screenshot(folder / f"status-{name}.png")
        await finish(setup)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch_:
        asyncio.run(take(Path(sys.argv[1] if sys.argv[1:] else "docs"), Path(scratch_)))
