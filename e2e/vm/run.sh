#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: run.sh KERNEL COMMAND [ARGUMENT...]
#
# Boots a kernel that fetch-kernels.sh has fetched and runs the command as root in it, in the same folder and with the
# same environment. It sees this machine's files, and what it writes is gone when it ends. There is no network.
# Exits as the command does; with 125 if that cannot be known, 124 if it took longer than $LIMIT seconds (600).
set -euo pipefail

kernel=${KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bridgewatch/kernels}/$1
shift
release=$(<"$kernel/release")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the kernel needs to see the machine's files.
make_initramfs() {
    local root=$work/initramfs module file
    mkdir -p "$root"/{bin,dev,proc,sys,modules,below,above,new,shared}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for module in virtio_pci virtio_console virtio_rng 9pnet_virtio 9p overlay; do
        modprobe -d "$kernel" -S "$release" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
    while read -r file; do
        case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -dcq "$file" ;;
        *) cat "$file" ;;
        esac >"$root/modules/$(basename "${file%%.ko*}").ko"
        echo "insmod /modules/$(basename "${file%%.ko*}").ko" >>"$root/load"
    done <"$work/modules"
    cat >"$root/init"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initrd"
}

make_initramfs <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
. /load
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $options,cache=none shared /shared
mount -t 9p -o $options,ro,cache=loose root /below
mount -t tmpfs tmpfs /above
mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work overlay /new
mkdir -p /new/lib/modules/$(uname -r)
mount -t 9p -o $options,ro,cache=loose modules /new/lib/modules/$(uname -r)
for dir in dev proc sys; do
    mount --move /$dir /new/$dir
done
cd /new
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs run
mkdir run/vm
mount --move /shared run/vm
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tracefs tracefs sys/kernel/tracing 2>/dev/null
ifconfig lo up
# A true change of root, so that the kernel's own modprobe finds the machine's files too.
mount --move . /
exec chroot . /bin/bash /run/vm/main
INIT

mkdir "$work/shared"
cat >"$work/shared/main" <<'MAIN'
for port in /sys/class/virtio-ports/*; do
    [[ $(<"$port/name") != output ]] || exec >"/dev/${port##*/}" 2>&1 </dev/null
done
bash /run/vm/command
echo $? >/run/vm/status
sync
echo b >/proc/sysrq-trigger # which -no-reboot makes the end
sleep 60
MAIN
{
    export -p | grep -vE '^declare -x (SHLVL|OLDPWD|_)(=|$)'
    printf 'cd %q\n' "$PWD"
    printf '%q ' exec "$@"
} >"$work/shared/command"

share() { # TAG FOLDER [OPTION]
    echo "-fsdev local,id=$1,path=$2,security_model=passthrough${3:-} -device virtio-9p-pci,fsdev=$1,mount_tag=$1"
}

# The output goes through a pipe: QEMU would write a file from its beginning.
# shellcheck disable=SC2046 # each is several words
timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,la57=off -M q35 -smp 2 -m 2048 \
    -nodefaults -no-user-config -display none -no-reboot \
    -serial "file:$work/console" -chardev file,id=output,path=/dev/stdout,append=on -device virtio-serial-pci \
    -device virtserialport,chardev=output,name=output -device virtio-rng-pci \
    $(share shared "$work/shared") $(share root / ,readonly=on,multidevs=remap) \
    $(share modules "$kernel/lib/modules/$release" ,readonly=on) \
    -kernel "$kernel/vmlinux" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr
        tsc=reliable no_timer_check cryptomgr.notests audit=0 apparmor=0 random.trust_cpu=on' </dev/null | cat || exit
if [[ ! -s $work/shared/status ]]; then
    echo "run.sh: kernel $release came to an untimely end:" >&2
    tail -n 40 "$work/console" >&2
    exit 125
fi
exit "$(<"$work/shared/status")"
