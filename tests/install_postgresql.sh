#!/usr/bin/env bash
# The PostgreSQL and the PgBouncer that the tests of storage start in temporary directories: nothing to do if they are there;
# else from Debian's or Ubuntu's packages, where that is possible without asking anybody. They set up servers, too, which no
# test uses.
set -euo pipefail

packages=()
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then packages+=(postgresql); fi
if ! [ -x /usr/sbin/pgbouncer ] && ! command -v pgbouncer >/dev/null; then packages+=(pgbouncer); fi
if [ ${#packages[@]} -eq 0 ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
if ! command -v apt-get >/dev/null || ! { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "There is no ${packages[*]}, and it cannot be installed from here: the tests with it are skipped." >&2
  exit 0
fi
echo "Installing ${packages[*]} for the tests of storage." >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a </dev/null 1>&2 || true  # one that was interrupted
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null 1>&2 || true
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${packages[@]}" util-linux </dev/null 1>&2; then
  echo "${packages[*]} could not be installed: the tests with it are skipped." >&2
fi
