#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: fetch-kernels.sh NAME...
#
# Downloads Debian's kernels for amd64, without installing them, into $KERNEL_CACHE/NAME: vmlinux, release
# (what uname -r says) and lib/modules. A name that is already there is left alone.
#
#   5.10 of bullseye, 6.1 of bookworm, 6.12 of trixie, 7 of sid
set -euo pipefail

declare -A suites=([5.10]=bullseye [6.1]=bookworm [6.12]=trixie [7]=sid)
# Where this machine's own packages come from.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$' || true)}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
cache=${KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bridgewatch/kernels}

[[ -n $mirror ]] || { echo 'fetch-kernels: no Debian mirror in the sources of apt; set DEBIAN_MIRROR' >&2; exit 2; }

# An ELF kernel boots without being decompressed under emulation, which saves seconds.
extract_vmlinux() { # VMLINUZ
    local magic offset
    for magic in '\xfd7zXZ\x00:xz -dc --single-stream' '\x28\xb5\x2f\xfd:zstd -dcq' '\x1f\x8b\x08:gzip -dc'; do
        for offset in $(LC_ALL=C grep -aobP "${magic%%:*}" "$1" | cut -d: -f1); do
            tail -c "+$((offset + 1))" "$1" | ${magic#*:} >"$work/elf" 2>/dev/null || true
            if [[ $(head -c4 "$work/elf" | tr -d '\0') == $'\x7fELF' ]]; then
                cat "$work/elf"
                return
            fi
        done
    done
    echo "fetch-kernels: no kernel found in $1" >&2
    return 1
}

fetch() { # NAME
    local dir=$cache/$1 suite=${suites[$1]:?unknown kernel $1} release version package
    [[ ! -s $dir/release ]] || return 0
    rm -rf "${work:?}"/*
    mkdir -p "$work"/{lists/partial,archives/partial,root,deb} "$dir"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
    # apt with lists of its own: the machine's stay as they are.
    local apt=(-qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" -o Dir::State::status=/dev/null
        -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none)
    apt-get "${apt[@]}" update
    package=$(apt-cache "${apt[@]}" depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n1)
    release=${package#linux-image-}
    version=$(apt-cache "${apt[@]}" show "$package" | sed -n 's/^Version: //p' | head -n1)
    # Since 7 the image is in several packages.
    local packages=()
    for package in "linux-image-$release" "linux-binary-$release" "linux-modules-$release" \
        "linux-base-$release"; do
        [[ -z $(apt-cache "${apt[@]}" show "$package" 2>/dev/null) ]] || packages+=("$package=$version")
    done
    echo "fetch-kernels: $1: ${packages[*]}" >&2
    (cd "$work/deb" && apt-get "${apt[@]}" download "${packages[@]}")
    for package in "$work"/deb/*.deb; do
        dpkg-deb -x "$package" "$work/root"
    done
    rm -rf "$dir/lib"
    mkdir "$dir/lib"
    mv "$(find "$work/root" -type d -path '*lib/modules' -print -quit)" "$dir/lib/"
    extract_vmlinux "$(find "$work/root" "$dir/lib" -name 'vmlinuz*' -type f -print -quit)" >"$dir/vmlinux"
    depmod -b "$dir" "$release"
    echo "$release" >"$dir/release" # last: the rest is complete
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in "$@"; do
    fetch "$name"
done
