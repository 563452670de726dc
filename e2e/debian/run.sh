#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: run.sh FOLDER COMMAND [ARGUMENT...]
#
# Runs the command as root with the programs of another Debian, which debootstrap has put into FOLDER: its Docker above all. The
# kernel is this machine's. The command runs in the same folder and sees this repository, and no other files of this machine.
set -euo pipefail

root=$(realpath "$1")
shift
repository=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
folder=$PWD
export root repository folder

# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --mount --propagation private bash -euc '
    mount --bind "$root" "$root"
    mount --rbind /proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root$repository" "$root/tmp/old"
    mount --bind "$repository" "$root$repository"
    cd "$root"
    pivot_root . tmp/old
    umount --lazy /tmp/old
    cd "$folder"
    exec "$@"' bash "$@"
