#!/usr/bin/env bash
# Installs what mailraft needs, on Debian 12 and 13. Safe to run again: does nothing, and needs no
# network and no root, when everything is there already.
#
#   deploy/install-deps.sh           what the build needs
#   deploy/install-deps.sh --test    that, and what the tests need (peers, linters)
#   deploy/install-deps.sh --bench   what the build needs, and what chaos-tests/bench/run compares it with
#   deploy/install-deps.sh --libraft what the build needs, and what builds libraft from its source (chaos-tests/libraft)
#
# libraft has to be 0.22 (Debian 13: main; Debian 12: bookworm-backports, which is switched on here with the
# mirror that this machine's own apt configuration names).
set -euo pipefail

build_packages=(
    build-essential cmake ninja-build pkg-config
    libraft-dev libuv1-dev libssl-dev libprotobuf-c-dev protobuf-c-compiler libc-ares-dev
    libyaml-dev libmicrohttpd-dev libjansson-dev libxxhash-dev libcurl4-openssl-dev libsmartcols-dev
    libgsasl-dev libcrypt-dev libidn2-dev libmimalloc-dev
)
test_packages=(
    git libcmocka-dev clang libclang-rt-dev clang-format clang-tidy lld python3 python3-pytest openssl faketime nftables util-linux
    swaks gsasl libnet-ssleay-perl postfix dovecot-core dovecot-lmtpd libsasl2-modules dnsmasq-base knot knot-dnsutils unbound spin iproute2 procps strace
)
# liblz4-dev: so that what comes out can do what Debian's can.
libraft_packages=(dpkg-dev autoconf automake libtool liblz4-dev libcmocka-dev)
# The erlang packages are what RabbitMQ, unpacked below, runs on.
bench_packages=(
    openssl python3 python3-pytest postfix dnsmasq-base strace util-linux procps
    erlang-base erlang-crypto erlang-eldap erlang-inets erlang-mnesia erlang-os-mon erlang-parsetools erlang-public-key
    erlang-runtime-tools erlang-ssl erlang-syntax-tools erlang-tools erlang-xmerl
)
# Peers that only tests and the bench run and that Debian's packages would not let stand beside the others (Exim conflicts with Postfix)
# or would start as services: unpacked below $peers_dir, with the libraries that they need installed as usual.
test_peers=(exim4-daemon-light haproxy)
bench_peers=(exim4-daemon-light opensmtpd stunnel4 etcd-server nats-server rabbitmq-server)
peers=()
peers_dir=/usr/local/lib/mailraft-peers

packages=("${build_packages[@]}")
case "${1:-}" in
'') ;;
--test) packages+=("${test_packages[@]}") peers=("${test_peers[@]}") ;;
--bench) packages+=("${bench_packages[@]}") peers=("${bench_peers[@]}") ;;
--libraft) packages+=("${libraft_packages[@]}") ;;
*)
    echo "usage: $0 [--test|--bench|--libraft]" >&2
    exit 2
    ;;
esac

. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
debian:12) raft_suite=bookworm-backports ;;
debian:13) raft_suite= ;;
*)
    echo "$0: made for Debian 12 and 13, this is ${PRETTY_NAME:-unknown}; going on as for Debian 13" >&2
    raft_suite=
    ;;
esac

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }
raft_is_new_enough() {
    installed libraft-dev && dpkg --compare-versions "$(dpkg-query -W -f '${Version}' libraft-dev)" ge 0.22~
}

# A peer that is whole says its version; one whose unpacking or libraries broke off does not.
peer_works() {
    case "$1" in
    exim4-daemon-light) "$peers_dir/$1/usr/sbin/exim4" -C /dev/null -bV ;;
    haproxy) "$peers_dir/$1/usr/sbin/haproxy" -v ;;
    # It knows no question that it answers with success.
    opensmtpd) [[ $("$peers_dir/$1/usr/sbin/smtpd" -h 2>&1) == *OpenSMTPD* ]] ;;
    stunnel4) "$peers_dir/$1/usr/bin/stunnel4" -version ;;
    etcd-server) "$peers_dir/$1/usr/bin/etcd" --version ;;
    nats-server) "$peers_dir/$1/usr/sbin/nats-server" --version ;;
    # A script of its package only: the Erlang that it starts is a package that is installed.
    rabbitmq-server) sh -n "$peers_dir/$1"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server ;;
    esac >/dev/null 2>&1
}

missing=()
for p in "${packages[@]}"; do
    if [ "$p" = libraft-dev ]; then
        raft_is_new_enough || missing+=("$p")
    elif ! installed "$p"; then
        missing+=("$p")
    fi
done
missing_peers=()
for p in "${peers[@]}"; do
    peer_works "$p" || missing_peers+=("$p")
done
[ ${#missing[@]} -eq 0 ] && [ ${#missing_peers[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "$0: not root and no sudo; run it as root; missing: ${missing[*]} ${missing_peers[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

apt update
if [ -n "$raft_suite" ] && ! raft_is_new_enough && ! apt-cache policy libraft-dev | grep -q '0\.22'; then
    mirror=$(apt-get indextargets --format '$(SITE)|$(CODENAME)|$(CREATED_BY)' |
        awk -F'|' '$2 == "bookworm" && $3 == "Packages" { print $1; exit }')
    if [ -z "$mirror" ]; then
        echo "$0: apt has no source for bookworm to take the mirror from; switch on $raft_suite by hand" >&2
        exit 1
    fi
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$raft_suite" \
        /usr/share/keyrings/debian-archive-keyring.gpg |
        "${as_root[@]}" tee /etc/apt/sources.list.d/mailraft-backports.sources >/dev/null
    apt update
fi

# Postfix and its kin are wanted as programs that tests start with their own configuration, never as services
# of this machine: policy-rc.d keeps their installation from starting them.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

backport=()
plain=()
for p in "${missing[@]}"; do
    if [ "$p" = libraft-dev ] && [ -n "$raft_suite" ]; then
        backport+=("$p")
    else
        plain+=("$p")
    fi
done
if [ ${#plain[@]} -gt 0 ]; then
    apt install -y --no-install-recommends "${plain[@]}"
fi
if [ ${#backport[@]} -gt 0 ]; then
    apt install -y --no-install-recommends -t "$raft_suite" "${backport[@]}"
fi
# unpack PACKAGE: below $peers_dir, never set-user-id, and no file outside; its libraries as packages.
unpack() {
    local into="$peers_dir/$1" libraries
    (cd "$download" && apt-get -q -o APT::Sandbox::User=root download "$1")
    # Of alternatives the first; programs and debconf, which only a service would need, are left out.
    mapfile -t libraries < <(dpkg-deb -f "$download/$1"_*.deb Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ |(]*\).*/\1/p')
    apt install -y --no-install-recommends "${libraries[@]}"
    "${as_root[@]}" rm -rf "$into"
    "${as_root[@]}" mkdir -p "$into"
    "${as_root[@]}" dpkg-deb -x "$download/$1"_*.deb "$into"
    "${as_root[@]}" chmod -R u-s,g-s "$into"
}
if [ ${#missing_peers[@]} -gt 0 ]; then
    # Debian's Exim looks its user up by name before it does anything else.
    getent passwd Debian-exim >/dev/null ||
        "${as_root[@]}" useradd --system --user-group --no-create-home --home-dir /nonexistent \
            --shell /usr/sbin/nologin Debian-exim
    download=$(mktemp -d)
    for p in "${missing_peers[@]}"; do
        unpack "$p"
        if ! peer_works "$p"; then
            echo "$0: $peers_dir/$p does not run" >&2
            exit 1
        fi
    done
    rm -rf "$download"
fi
if ! raft_is_new_enough; then
    echo "$0: libraft 0.22 is not to be had from this machine's apt sources" >&2
    exit 1
fi
