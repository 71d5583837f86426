#!/bin/sh
# Goes to /usr/local/sbin/inhouse: `sudo inhouse pull phi-4` runs a command of Inhouse as the service does: as its user, in
# /etc/inhouse, with its tokens, models and state.
set -eu
umask 077
if [ "$(id -u)" -ne 0 ]; then
  echo "inhouse: this runs as the service's user, so it needs root: sudo inhouse $*" >&2
  exit 78
fi
CREDENTIALS_DIRECTORY=$(mktemp -d)
trap 'rm -rf "$CREDENTIALS_DIRECTORY"' EXIT
trap : INT # Ctrl-C is for the command; the copied tokens are deleted after it
for name in DISCORD_BOT_TOKEN SLACK_BOT_TOKEN SLACK_APP_TOKEN HF_TOKEN INHOUSE_HTTP_TOKEN; do
  if [ -f "/etc/credstore/$name" ]; then
    cp "/etc/credstore/$name" "$CREDENTIALS_DIRECTORY/$name"
  elif [ -f "/etc/credstore.encrypted/$name" ]; then
    systemd-creds decrypt --name="$name" "/etc/credstore.encrypted/$name" "$CREDENTIALS_DIRECTORY/$name"
  fi
done
chown -R inhouse:inhouse "$CREDENTIALS_DIRECTORY"
install -d -m 700 -o inhouse -g inhouse /var/lib/inhouse
install -d -m 750 -o inhouse -g inhouse /var/cache/inhouse
cd /etc/inhouse
runuser -u inhouse -- env -u XDG_STATE_HOME -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u HF_HOME HOME=/var/cache/inhouse \
  CREDENTIALS_DIRECTORY="$CREDENTIALS_DIRECTORY" INHOUSE_STATE_DIR=/var/lib/inhouse /opt/inhouse/bin/inhouse "$@"
