#!/bin/sh
# Obtains a certificate by ACME, or renews it when its time has come. certificate-<name>.service runs it, whose
# environment says for what; uacme calls it too, for every challenge.
set -eu

# Whoever is asked answers every challenge by HTTP-01 of this account, so that nothing is to be done for one. Others
# are declined.
case ${1-} in
begin)
  test "$2" = http-01
  exit
  ;;
done | failed) exit ;;
esac

umask 077
cd "$ACME_STATE"
first=${ACME_NAMES%% *}
certificate=$first/cert.pem
key=private/$first/key.pem

# date_of startdate|enddate: that of the certificate, in seconds
date_of() {
  date -d "$(openssl x509 -in "$certificate" -noout "-$1" | cut -d= -f2)" +%s
}

# Whether the authority has issued a certificate for all of the names that is valid for another day.
good() {
  openssl x509 -in "$certificate" -noout -checkend 86400 >/dev/null 2>&1 || return 1
  for name in $ACME_NAMES; do
    openssl x509 -in "$certificate" -noout -checkhost "$name" | grep -q 'does match' || return 1
  done
}

# Says why there is no new certificate; the status says whether there is a good one nevertheless.
give_up() {
  cat failed >&2
  if good; then exit 2; else exit 1; fi
}

client() {
  uacme --acme-url "$ACME_DIRECTORY" --confdir . --hook "$0" --type EC --days "$days" --yes "$@"
}

# ask [OPTION]: status 0 for a new certificate, 1 for one that is current, 2 for trouble
ask() {
  account="$(sha256sum private/key.pem) $ACME_EMAIL"
  if [ "$(cat account 2>/dev/null)" != "$account" ]; then
    # What is there already is not new.
    client new ${ACME_EMAIL:+"$ACME_EMAIL"} || client update ${ACME_EMAIL:+"$ACME_EMAIL"} || return 2
    printf '%s' "$account" >account
  fi
  # Each name is an argument.
  # shellcheck disable=SC2086
  client "$@" issue $ACME_NAMES
}

if [ -e renew ]; then
  rm renew
  set -- --force
elif [ -n "$(find failed -mmin -15 2>/dev/null)" ]; then
  # Authorities let nobody in who fails often.
  give_up
fi

# A third of its life before its end.
days=30
if [ -e "$certificate" ]; then
  days=$((($(date_of enddate) - $(date_of startdate)) / 86400 / 3))
  [ "$days" -gt 0 ] || days=1
fi

echo "The last attempt did not come to its end." >failed
for _attempt in 1 2 3; do
  status=0
  ask "$@" >output 2>&1 || status=$?
  # Authorities may refuse any message because of its nonce, and uacme sends each three times at most.
  if [ "$status" -le 1 ] || ! grep -q badNonce output; then break; fi
done
if [ "$status" -gt 1 ]; then
  # The account may be unknown now.
  rm -f account
  tail -n 40 output >failed
  give_up
fi
rm failed

if [ "$(openssl x509 -in "$certificate" -noout -pubkey)" != "$(openssl pkey -in "$key" -pubout)" ]; then
  echo "$ACME_STATE/$key is not the key of $ACME_STATE/$certificate: remove both." | tee failed >&2
  exit 1
fi
# In one step, with a mark for who reloads the services.
awk 1 "$certificate" "$key" >"$ACME_PATH.new"
if cmp -s "$ACME_PATH.new" "$ACME_PATH"; then
  rm "$ACME_PATH.new"
else
  chmod 0640 "$ACME_PATH.new"
  touch reload
  mv "$ACME_PATH.new" "$ACME_PATH"
  echo "The certificate in $ACME_PATH is valid until $(date -d "@$(date_of enddate)" '+%Y-%m-%d %H:%M')."
fi
rm -f "$first"/cert-*.pem
