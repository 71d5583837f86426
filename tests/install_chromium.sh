#!/usr/bin/env bash
# The browser that tests/web/test_page.py drives: nothing to do if there is one; else from Debian's or Ubuntu's packages,
# where that is possible without asking anybody. Where it is not, those tests are skipped (and fail in CI).
set -euo pipefail

for name in chromium chromium-browser google-chrome-stable google-chrome chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || ! { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "There is no Chromium, and it cannot be installed from here: the tests of the status page are skipped." >&2
  exit 0
fi
echo "Installing Chromium for the tests of the status page." >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a </dev/null 1>&2 || true  # one that was interrupted
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null 1>&2 || true
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core </dev/null 1>&2; then
  echo "Chromium could not be installed: the tests of the status page are skipped." >&2
fi
