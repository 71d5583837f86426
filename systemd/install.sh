#!/usr/bin/env bash
# Installs Inhouse as a system service, or this Inhouse over an older one: sudo systemd/install.sh
#
# It says what it does, asks nothing, and can be run again at any time. Settings, tokens, models and what is stored stay as
# they are. It starts nothing, but a service that runs is restarted. README.md beside this file says how it goes on.
#   PYTHON=...       the Python to make /opt/inhouse with (3.11 or newer)
#   TORCH_INDEX=URL  a package index to take torch from (one with CPU-only builds, or with another CUDA)
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
own=/opt/inhouse

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 78; }

[ "$(id -u)" -eq 0 ] || fail "it writes to /opt and /etc, so it needs root: sudo systemd/install.sh"
version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }') || true
[ "${version:-0}" -ge 252 ] || fail "Inhouse's unit needs systemd 252 or newer (Debian 12, Ubuntu 24.04)."

if ! "$own/bin/python" -c '' 2>/dev/null; then # not there, or its Python was upgraded away
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Inhouse needs Python 3.11 or newer, and '$python' is not: say sudo PYTHON=/path/to/python3.11 systemd/install.sh"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' cannot make virtual environments: apt install python3-venv"
  say "making a virtual environment in $own"
  "$python" -m venv --clear "$own"
fi

say "installing Inhouse and what it needs into $own (the first time, torch with CUDA is a download of 3 GB)"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R pyproject.toml README.md LICENSE bot adapters "$copy" # so that nothing of root's is left in the checkout
index=${TORCH_INDEX:+--extra-index-url=$TORCH_INDEX}
"$own/bin/python" -m pip --disable-pip-version-check install --quiet ${index:+"$index"} -c constraints.txt "$copy" </dev/null

say "making the user 'inhouse', and putting the unit where systemd looks"
install -D -m 644 systemd/sysusers.conf /etc/sysusers.d/inhouse.conf
systemd-sysusers inhouse.conf
install -D -m 644 systemd/inhouse.service /etc/systemd/system/inhouse.service
install -D -m 755 systemd/as-service.sh /usr/local/sbin/inhouse
if modinfo nvidia-uvm >/dev/null 2>&1; then
  install -D -m 644 systemd/modules-load.conf /etc/modules-load.d/inhouse.conf
  modprobe nvidia-uvm || say "the module nvidia-uvm cannot be loaded, so there is no GPU until the driver is mended"
fi

install -d -m 700 /etc/credstore
install -d -m 755 /etc/inhouse
if [ ! -e /etc/inhouse/.env ]; then
  say "putting the settings, all of them at their defaults, into /etc/inhouse/.env"
  install -m 640 -g inhouse .env.example /etc/inhouse/.env
fi
systemctl daemon-reload
if systemctl --quiet is-active inhouse; then
  say "restarting the service; answers that are being written are finished first"
  systemctl restart inhouse
fi
say "done. Tokens go into /etc/credstore, settings into /etc/inhouse/.env; then: systemctl enable --now inhouse"
