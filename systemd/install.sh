#!/usr/bin/env bash
# Installs Inhouse as a system service, or this Inhouse over an older one: sudo systemd/install.sh
#
# It prints what it does, asks nothing, and can be run again at any time. Settings, tokens, models and conversations stay as
# they are. It starts nothing, but restarts a running service. README.md beside this file has the next steps.
#   PYTHON=...       the Python of /opt/inhouse (3.11 or newer); another one than before makes /opt/inhouse anew
#   TORCH_INDEX=URL  a package index to take torch from (one with CPU-only builds, or with another CUDA)
#   INHOUSE_EXTRAS=vllm  what else to install, separated by commas: llama-cpp, quantize, or vllm (into /opt/inhouse-vllm)
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
extras=${INHOUSE_EXTRAS:-}
own=/opt/inhouse

say() { echo "install: $*" >&2; }
fail() { say "$*"; exit 78; }
as_service() { (cd / && runuser -u inhouse -- "$@"); }
base_of() { "$1" -c 'import sys; print(sys._base_executable)' 2>/dev/null; } # of a virtual environment: what made it

# Whether the service's user can run the virtual environment's Python, its packages are of that version, and PYTHON is not
# another one.
is_usable() {
  as_service "$own/bin/python" -c 'import os, sysconfig; os.listdir(sysconfig.get_path("purelib"))' 2>/dev/null || return 1
  [ -z "${PYTHON:-}" ] || [ "$(base_of "$own/bin/python")" = "$(base_of "$python")" ]
}

case ,$extras, in
  *[!a-z,-]*) fail "INHOUSE_EXTRAS holds names separated by commas, such as vllm,quantize, not '$extras'" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "it writes to /opt and /etc, so it needs root: sudo systemd/install.sh"
version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }') || true
[ "${version:-0}" -ge 252 ] || fail "Inhouse's unit needs systemd 252 or newer (Debian 12, Ubuntu 24.04)."

say "creating the user 'inhouse'"
install -D -m 644 systemd/sysusers.conf /etc/sysusers.d/inhouse.conf
systemd-sysusers inhouse.conf

running=$(systemctl is-active inhouse) || true
if ! is_usable; then
  other="choose another one: sudo PYTHON=/usr/bin/python3 systemd/install.sh"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Inhouse needs Python 3.11 or newer, and '$python' is not: say sudo PYTHON=/path/to/python3.11 systemd/install.sh"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' cannot make virtual environments: apt install python3-venv"
  base=$(base_of "$python")
  for path in "$base" "$(readlink -f "$base")"; do
    case $path in
      /home/* | /root/* | /run/user/*)
        fail "'$path' is in a home directory, which the service cannot read (ProtectHome=yes in the unit); $other" ;;
    esac
  done
  as_service "$base" -c 'import venv' 2>/dev/null || fail "the service's user 'inhouse' cannot run '$base'; $other"
  if [ "$running" = active ]; then
    say "stopping the service, whose virtual environment is replaced; running answers are finished first"
    systemctl stop inhouse
  fi
  say "making a virtual environment in $own with $base"
  "$python" -m venv --clear "$own"
fi

say "installing Inhouse and its dependencies into $own (the first time, torch with CUDA is a download of 3 GB)"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R pyproject.toml README.md LICENSE bot adapters "$copy" # so that no file of root's is left in the checkout
index=${TORCH_INDEX:+--extra-index-url=$TORCH_INDEX}
own_extras=$(printf %s "$extras" | tr , '\n' | grep -vx vllm | paste -sd, -) || true
"$own/bin/python" -m pip --disable-pip-version-check install --quiet ${index:+"$index"} -c constraints.txt \
  "$copy${own_extras:+[$own_extras]}" </dev/null
case ,$extras, in
  *,vllm,*)
    say "installing vLLM into $own-vllm, since it needs another transformers (a download of several GB)"
    "$(base_of "$own/bin/python")" -m venv "$own-vllm"
    "$own-vllm/bin/python" -m pip --disable-pip-version-check install --quiet ${index:+"$index"} vllm </dev/null ;;
esac
as_service "$own/bin/inhouse" --version >/dev/null || fail "the service's user 'inhouse' cannot run $own/bin/inhouse"

say "installing the unit and the command /usr/local/sbin/inhouse"
install -D -m 644 systemd/inhouse.service /etc/systemd/system/inhouse.service
install -D -m 755 systemd/as-service.sh /usr/local/sbin/inhouse
if modinfo nvidia-uvm >/dev/null 2>&1; then
  install -D -m 644 systemd/modules-load.conf /etc/modules-load.d/inhouse.conf
  modprobe nvidia-uvm || say "the module nvidia-uvm cannot be loaded, so there is no GPU until the driver works"
fi

install -d -m 700 /etc/credstore
install -d -m 755 /etc/inhouse
if [ ! -e /etc/inhouse/.env ]; then
  say "creating /etc/inhouse/.env with every setting at its default"
  install -m 640 -g inhouse .env.example /etc/inhouse/.env
fi
systemctl daemon-reload
if [ "$running" = active ]; then
  say "restarting the service; running answers are finished first"
  systemctl restart inhouse
fi
say "done. Tokens go into /etc/credstore, settings into /etc/inhouse/.env; then: systemctl enable --now inhouse"
