"""Takes the README's pictures of the status page: python -m tests.support.screenshots [DIRECTORY]."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support.builders.busy_service import finish, run_busy_service
from tests.support.chromium import run_chromium


async def take(folder: Path, scratch: Path) -> None:
    """Writes status-light.png and status-dark.png into `folder`."""
    async with run_busy_service(scratch) as (setup, site), run_chromium() as browser:
        page = await browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
        for name in ("light", "dark"):
            await page.emulate_media(color_scheme=name)
            await page.goto(f"{site.url}/")
            await page.wait_for_selector("body[data-shown=yes]")
            await page.screenshot(path=folder / f"status-{name}.png", full_page=True)
        await finish(setup)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch_:
        asyncio.run(take(Path(sys.argv[1] if sys.argv[1:] else "docs"), Path(scratch_)))
