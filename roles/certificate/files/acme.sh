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

# current SECONDS: whether the authority has issued a certificate for all of the names that is valid for so long
current() {
  openssl x509 -in "$certificate" -noout -checkend "$1" >/dev/null 2>&1 || return 1
  for name in $ACME_NAMES; do
    openssl x509 -in "$certificate" -noout -checkhost "$name" | grep -q 'does match' || return 1
  done
}

# Says why there is no new certificate; the status says whether there is a good one nevertheless.
give_up() {
  cat failed >&2
  if current 86400; then exit 2; else exit 1; fi
}

client() {
  uacme --acme-url "$ACME_DIRECTORY" --confdir . --hook "$0" --type EC --yes "$@"
}

# Gets a new certificate; what is printed goes into the file output.
ask() {
  account="$(sha256sum private/key.pem) $ACME_EMAIL"
  if [ "$(cat account 2>/dev/null)" != "$account" ]; then
    if ! client new ${ACME_EMAIL:+"$ACME_EMAIL"}; then
      # Another load balancer may have been the first.
      grep -q 'already exists' output || return 1
      client update ${ACME_EMAIL:+"$ACME_EMAIL"} || return 1
    fi
    printf '%s' "$account" >account
  fi
  # Each name is an argument. Whether it is time has been seen to: not every version looks at the same.
  # shellcheck disable=SC2086
  client --force issue $ACME_NAMES
}

# Asks the authority, and says in the file failed what has come of it if that is no certificate.
obtain() {
  echo "The last attempt did not come to its end." >failed
  for _attempt in 1 2 3; do
    if ask >output 2>&1; then
      rm failed
      return
    fi
    # The account may be unknown by now. And authorities may refuse any message because of its nonce; uacme sends each
    # three times at most.
    rm -f account
    grep -q -e 'no account associated' -e badNonce output || break
  done
  # Each line once: uacme tries several times.
  grep -v 'seconds before retrying$' output | awk '!seen[$0]++' | tail -n 40 >failed
  give_up
}

# Renewed with less than a third of its life left.
third=86400
if [ -e "$certificate" ]; then third=$((($(date_of enddate) - $(date_of startdate)) / 3)); fi
if [ -e renew ]; then
  rm renew
  obtain
elif current "$third"; then
  rm -f failed
elif [ -n "$(find failed -mmin -15 2>/dev/null)" ]; then
  # Authorities let nobody in who fails often.
  give_up
else
  obtain
fi

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
