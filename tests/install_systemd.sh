#!/usr/bin/env bash
# The systemd that tests/system/test_systemd.py boots: nothing to do if there is one; else from Debian's or Ubuntu's packages,
# where that is possible without asking anybody. It is never started on this machine, but in namespaces of its own.
set -euo pipefail

if [ -x /lib/systemd/systemd ] && command -v systemctl systemd-analyze unshare nsenter setpriv >/dev/null; then exit 0; fi
if [ "$(uname -s)" != Linux ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || ! { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "There is no systemd, and it cannot be installed from here: its tests are skipped." >&2
  exit 0
fi
echo "Installing systemd for the tests of the unit." >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a </dev/null 1>&2 || true  # one that was interrupted
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null 1>&2 || true
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends systemd util-linux procps </dev/null 1>&2; then
  echo "systemd could not be installed: its tests are skipped." >&2
fi
