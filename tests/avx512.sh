#!/usr/bin/env bash
# The code for AVX-VNNI and for AVX-512, VNNI and BF16, without such a CPU.
#
#   tests/avx512.sh
#
# Runs the tests of the kernels and the unit tests of the runtime and of the trainer on a machine that Bochs emulates, a Xeon of
# the generation Sapphire Rapids: Debian's kernel, and as its init a script that runs the tests one by one. They
# compare every instruction set that the CPU has with the portable one, or with sums in double precision.
#
# Bochs is built from Debian's source, with what Debian's binary leaves out to be fast: ten minutes of two cores the
# first time with everything else, two afterwards. Everything is kept in target/avx512. Exit code 75: what is needed
# could not be had.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$PWD/target/avx512
packages="busybox-static cpio curl g++ genisoimage isolinux libc6-dev make syslinux-common"
pool=http://deb.debian.org/debian/pool/main/b/bochs
bochs_source=bochs_3.0+dfsg.orig.tar.xz
bochs_sha256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b
bochs=$cache/bochs-3.0
mkdir -p "$cache"

unavailable() {
    echo "tests/avx512.sh: $*" >&2
    exit 75
}

# Whether all packages are there, or could be installed.
have_packages() {
    dpkg -s $packages > /dev/null 2>&1 && return
    [ "$(dpkg --print-architecture)" = amd64 ] && [ "$(id -u)" = 0 ] || return
    apt-get update && apt-get install --yes --no-install-recommends $packages
}

# Debian's kernel for virtual machines, unpacked: installing it would change what this machine boots.
have_kernel() {
    [ -e "$cache/vmlinuz" ] && return
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
    rm -rf "$cache/kernel" && mkdir "$cache/kernel" &&
        (cd "$cache/kernel" && apt-get download "$package" && dpkg -x ./*.deb .) &&
        cp "$cache"/kernel/boot/vmlinuz-* "$cache/vmlinuz" && rm -r "$cache/kernel"
}

have_source() {
    [ -e "$bochs/configure" ] && return
    curl --fail --silent --show-error --output "$cache/$bochs_source" "$pool/$bochs_source" &&
        echo "$bochs_sha256  $cache/$bochs_source" | sha256sum --check --quiet &&
        tar -xJf "$cache/$bochs_source" -C "$cache"
}

have_packages > "$cache/apt.log" 2>&1 || unavailable "Debian's packages could not be installed: see $cache/apt.log"
have_kernel > "$cache/apt.log" 2>&1 || unavailable "Debian's kernel could not be had: see $cache/apt.log"
have_source || unavailable "the source of Bochs could not be had"

if [ ! -x "$bochs/bochs" ]; then
    (
        cd "$bochs"
        ./configure CXXFLAGS=-O2 --with-nogui --disable-docbook --enable-cpu-level=6 --enable-x86-64 --enable-avx \
            --enable-evex --enable-all-optimizations
        make -j "$(nproc)" bochs
    ) > "$cache/bochs.log" 2>&1
fi

# The program of a package's tests. The emulated machine has no libraries: it is static.
program() {
    RUSTFLAGS="-C target-feature=+crt-static" cargo test --quiet --locked --target x86_64-unknown-linux-gnu \
        --target-dir "$cache/cargo" -p "$@" --no-run --message-format json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

root=$cache/root
rm -rf "$root" "$cache/disc"
mkdir -p "$root/proc" "$root/tmp" "$cache/disc"
cp /bin/busybox "$root/busybox"
strip -o "$root/kernels" "$(program xelm-runtime --test kernels)"
strip -o "$root/xelm-runtime" "$(program xelm-runtime --lib)"
strip -o "$root/xelm-train" "$(program xelm-train --lib)"
# The model that tests of the trainer read, where they look for it.
mkdir -p "$root$PWD/xelm-train" "$root$PWD/tests/fixtures"
cp -r tests/fixtures/tiny "$root$PWD/tests/fixtures"
cat > "$root/init" << 'END'
#!/busybox sh
/busybox mount -t proc proc /proc
for feature in avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16; do
    /busybox grep -qw $feature /proc/cpuinfo || echo "no $feature"
done
/kernels && /xelm-runtime --test-threads=1 && /xelm-train --skip charsmap --test-threads=1 && echo "every test passed"
# What is still to be written to the serial port needs a while.
/busybox sleep 3
/busybox poweroff -f
END
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet --create --format newc | gzip -1) > "$cache/disc/initrd"
cp "$cache/vmlinuz" "$cache/disc/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$cache/disc"
# fsrm: without fast string operations, which Bochs does not announce, the kernel must not believe that short ones
# are fast; it would take a way for them that is not there. A kernel that gives up ends the emulator.
cat > "$cache/disc/isolinux.cfg" << 'END'
default linux
label linux
kernel linux
append initrd=initrd console=ttyS0,115200 quiet clearcpuid=fsrm panic=-1 reboot=t
END
genisoimage -quiet -o "$cache/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table "$cache/disc"

# la57: Bochs stops at a system management interrupt of a CPU with pages in five levels. A second of the machine is
# ten million instructions: devices are waited for in these seconds.
cat > "$cache/bochsrc" << END
display_library: nogui
megs: 1024
romimage: file=$bochs/bios/bios.bin-1.13.0
vgaromimage: file=$bochs/bios/vgabios-cirrus.bin-1.13.0
vga: extension=cirrus
cpu: model=sapphire_rapids, ips=10000000, reset_on_triple_fault=0, exclude_features="la57"
clock: sync=none
ata0-master: type=cdrom, path=$cache/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=/dev/stdout
panic: action=fatal
log: $cache/machine.log
END
# Turning the machine off ends Bochs with an error.
timeout 1800 "$bochs/bochs" -q -f "$cache/bochsrc" 2> "$cache/bochs.out" | sed -u 's,\r$,,' | tee "$cache/tests.log" || true
grep -qx "every test passed" "$cache/tests.log" && ! grep "^no avx" "$cache/tests.log"
