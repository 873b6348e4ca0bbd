#!/usr/bin/env bash
# The C library as others use it: installed, found by pkg-config and CMake, its examples built outside of
# this tree and run; once more under the sanitizers and under valgrind.
#
#   tests/c_abi.sh
#
# Needs cargo, gcc and g++, Python 3 with venv; takes pkg-config and valgrind from apt where they are
# missing, CMake and Ninja from PyPI. Everything is kept in target/c_abi.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$PWD/target/c_abi
prefix=$cache/prefix
mkdir -p "$cache"
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT

# Runs an example, named first, with its arguments; the rest is the command.
run_example() {
    local name=$1
    shift
    case $name in
        best_of) "$@" "$set" de "Am Morgen ist es hell." "Am Morgen hell es ist." ;;
        embedded) "$@" ;;
        generate) "$@" "$set" de "Am Morgen" 40 ;;
        mixed) "$@" "$set" "Am Morgen und die Nacht. 今日は、今日は。" 7 ;;
        reply) printf 'Am Morgen\n今日は\nlang: ko 오늘은\n' | "$@" "$set" 12 ;;
        *)
            echo "tests/c_abi.sh: no arguments for the example $name: add a line to run_example" >&2
            return 1
            ;;
    esac
}

step() {
    echo "== $*" >&2
}

step tools
missing=()
for tool in pkg-config valgrind; do
    command -v $tool > /dev/null || missing+=($tool)
done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update --quiet=2 && apt-get install --quiet=2 --no-install-recommends "${missing[@]}"
fi
if [ ! -x "$cache/venv/bin/ninja" ]; then
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet cmake ninja
fi

step install
tests/tiny_run.sh target/tiny/run
set=$PWD/target/tiny/run/set-q8_0
rm -rf "$prefix" "$cache/stage"
# Staged, then moved: the files must not know where they were installed.
DESTDIR=$cache/stage ffi/install.sh --prefix /opt/xelm > "$cache/installed"
mv "$cache/stage/opt/xelm" "$prefix"
rm -rf "$cache/stage"
ffi/install.sh --prefix "$cache/static" --static-only > /dev/null
[ ! -e "$cache/static/lib/libxelm.so" ]
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
cflags=$(pkg-config --cflags xelm)
shared=$(pkg-config --libs xelm)
static="$prefix/lib/libxelm.a $(pkg-config --libs-only-l --static xelm | sed 's/-lxelm//')"
warnings="-Wall -Wextra -Wpedantic -Werror"

step the header alone
for standard in c99 c11 c17; do
    echo '#include <xelm.h>' | gcc -std=$standard $warnings $cflags -fsyntax-only -x c -
    echo '#include <xelm.h>' | gcc -std=$standard $warnings $cflags -DXELM_NO_STD -fsyntax-only -x c -
done
for standard in c++11 c++17 c++20; do
    echo '#include <xelm.h>' | g++ -std=$standard $warnings $cflags -fsyntax-only -x c++ -
done
for standard in c++17 c++20; do
    echo '#include <xelm.hpp>' | g++ -std=$standard $warnings $cflags -fsyntax-only -x c++ -
done

cp ffi/examples/* "$outside"
# The model that the example `embedded` takes in.
model=-DMODEL=\"$PWD/tests/fixtures/tiny/expert.gguf\"
cd "$outside"
sources=(*.c *.cpp)

# Builds every example as SOURCE.$1, with the rest as flags.
build() {
    local suffix=$1 source
    shift
    for source in "${sources[@]}"; do
        case $source in
            *.c) gcc -std=c11 $warnings $cflags "$model" "$source" -o "$source.$suffix" "$@" ;;
            *.cpp) g++ -std=c++17 $warnings $cflags "$model" "$source" -o "$source.$suffix" "$@" ;;
        esac
    done
}

# Runs every example built as SOURCE.$1, under the command that follows.
run() {
    local suffix=$1 source
    shift
    for source in "${sources[@]}"; do
        local name=$source.$suffix
        run_example "${source%.*}" "$@" "./$name" > "$name.out" 2> "$name.err" ||
            { cat "$name.err" "$name.out" >&2; echo "$name failed" >&2; exit 1; }
        [ -s "$name.out" ]
    done
}

# What SOURCE.$1 printed must be what SOURCE.shared printed.
same() {
    local source
    for source in "${sources[@]}"; do
        cmp "$source.shared.out" "$source.$1.out"
    done
}

step pkg-config
build shared $shared "-Wl,-rpath,$prefix/lib"
run shared
build static $static
run static
same static
# Where only the static library is installed, plain flags name all that it needs.
cflags=$(PKG_CONFIG_PATH=$cache/static/lib/pkgconfig pkg-config --cflags xelm)
build alone $(PKG_CONFIG_PATH=$cache/static/lib/pkgconfig pkg-config --libs xelm)
run alone
same alone

step CMake
{
    echo 'cmake_minimum_required(VERSION 3.16)'
    echo 'project(examples C CXX)'
    echo 'find_package(xelm 0.1 REQUIRED)'
    for source in "${sources[@]}"; do
        for kind in cmake cmake_static; do
            echo "add_executable($source.$kind $source)"
            echo "target_link_libraries($source.$kind PRIVATE xelm::xelm${kind#cmake})"
            echo "target_compile_features($source.$kind PRIVATE c_std_11 cxx_std_17)"
            echo "target_compile_options($source.$kind PRIVATE [[$model]])"
        done
    done
} > CMakeLists.txt
cmake() {
    PATH=$cache/venv/bin:$PATH command cmake -G Ninja "$@" > cmake.log 2>&1 || { cat cmake.log >&2; return 1; }
}
for found in "$prefix" "$cache/static"; do
    cmake -S . -B build -DCMAKE_PREFIX_PATH="$found" -DCMAKE_BUILD_TYPE=Release
    PATH=$cache/venv/bin:$PATH ninja -C build > ninja.log || { cat ninja.log >&2; exit 1; }
    cp build/*.cmake build/*.cmake_static .
    run cmake
    run cmake_static
    same cmake
    same cmake_static
    rm -rf build
done
# A version that is not this one is not found.
echo 'cmake_minimum_required(VERSION 3.16)
project(none NONE)
find_package(xelm 1.0 REQUIRED)' > CMakeLists.txt
if cmake -S . -B build -DCMAKE_PREFIX_PATH="$prefix" 2> /dev/null; then
    echo "find_package took another version" >&2
    exit 1
fi

step sanitizers
build asan -g -fsanitize=address,undefined -fno-sanitize-recover=all $static
run asan
same asan

step valgrind
run static valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,possible

cd - > /dev/null
cp "$prefix/lib/libxelm.so.0" "$cache/stripped.so"
strip "$cache/stripped.so"
soname=$(objdump -p "$prefix/lib/libxelm.so" | sed -n 's/ *SONAME *//p')
foreign=$(nm -D --defined-only "$prefix/lib/libxelm.so" | awk '$3 !~ /^xelm_/ { print $3 }')
functions=$(nm -D --defined-only "$prefix/lib/libxelm.so" | grep -c ' T xelm_')
undeclared=$(nm -D --defined-only "$prefix/lib/libxelm.so" | awk '{ print $3 }' |
    while read -r name; do grep -qw "$name" include/xelm.h || echo "$name"; done)
echo "examples: ${sources[*]}"
echo "soname: $soname"
echo "libxelm.so, stripped: $(stat -c %s "$cache/stripped.so") bytes"
echo "exported functions: $functions"
echo "exported symbols not beginning with xelm_: $(echo $foreign | wc -w)${foreign:+ ($foreign)}"
echo "exported functions that xelm.h does not declare: $(echo $undeclared | wc -w)${undeclared:+ ($undeclared)}"
[ "$soname" = libxelm.so.0 ] && [ -z "$foreign" ] && [ -z "$undeclared" ] && [ "$functions" -gt 20 ]
