#!/bin/sh
# A certificate authority of your own, and a certificate of it for the registry.
#
#   make-ca.sh /etc/nora/tls registry.example.com 192.0.2.10
#
# leaves in the folder: ca.crt (for the clients), ca.key (keep it away from the server), server.crt and server.key (for the proxy).
# Run again it keeps the authority and makes a new certificate: that is how one is renewed. Names are host names or IP addresses.
set -eu
export LC_ALL=C
ca_days=3650
server_days=397 # Apple's programs take no more than 825, browsers 398

[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }
folder=$1
shift
for name; do
    case $name in
        '' | *[!A-Za-z0-9.:*-]*) echo "make-ca: neither a host name nor an IP address: $name" >&2; exit 64 ;;
        *:*) kind=IP ;;
        *[!0-9.]*) kind=DNS ;;
        *) kind=IP ;;
    esac
    names=${names:+$names,}$kind:$name
done

if [ -e "$folder/ca.crt" ] && [ ! -e "$folder/ca.key" ]; then
    echo "make-ca: $folder/ca.key is not here: bring it back, or take ca.crt away to begin anew, with a CA that no client knows yet" >&2
    exit 66
fi
mkdir -p "$(dirname "$folder")"
umask 077
mkdir -p "$folder"
new=$(mktemp -d "$folder/.new.XXXXXX") # on the same disk, so that what is there is replaced in one step
trap 'rm -rf "$new"' EXIT
serial() { printf '0x5%s' "$(openssl rand -hex 15)"; }
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve -out "$1"; }

if [ ! -e "$folder/ca.key" ]; then
    cat >"$new/ca.conf" <<END
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = noraflask CA $(date -u +%Y-%m-%d) $(openssl rand -hex 3)
[extensions]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
    key "$new/ca.key"
    openssl req -x509 -sha256 -config "$new/ca.conf" -key "$new/ca.key" -set_serial "$(serial)" -days $ca_days -out "$new/ca.crt"
    mv "$new/ca.key" "$folder/ca.key"
    chmod 644 "$new/ca.crt"
    mv "$new/ca.crt" "$folder/ca.crt"
fi

cat >"$new/server.conf" <<END
[req]
prompt = no
distinguished_name = name
[name]
CN = $1
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
END
key "$new/server.key"
openssl req -new -sha256 -config "$new/server.conf" -key "$new/server.key" -out "$new/server.csr"
openssl x509 -req -sha256 -in "$new/server.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -set_serial "$(serial)" -days $server_days \
    -extfile "$new/server.conf" -extensions extensions -out "$new/server.crt" 2>"$new/said" ||
    { cat "$new/said" >&2; exit 1; }
openssl verify -CAfile "$folder/ca.crt" "$new/server.crt" >/dev/null
chmod 644 "$new/server.crt"
if [ -e "$folder/server.key" ]; then # whoever could read the old one can read the new one
    chown --reference="$folder/server.key" "$new/server.key"
    chmod --reference="$folder/server.key" "$new/server.key"
fi
mv "$new/server.key" "$folder/server.key"
mv "$new/server.crt" "$folder/server.crt"
echo "$folder/server.crt: $names, until $(openssl x509 -noout -enddate -in "$folder/server.crt" | cut -d= -f2)"
