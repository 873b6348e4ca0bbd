//! The CUDA kernels on this machine's CPU: their own sources, compiled with a header that stands in for
//! the device (`tests/cuda/shim.h`), behind the seam that the driver has.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};
use xelm_train::backend::cuda::{Arg, Device, Precision, Product, Ptr};
use xelm_train::{Error, Result};

type Launch = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    c_uint,
    *const *mut c_void,
    c_uint,
) -> c_int;

/// The shim has one set of fibres.
static LAUNCH: Mutex<()> = Mutex::new(());
static LAUNCHED: Mutex<BTreeSet<(&str, u8)>> = Mutex::new(BTreeSet::new());

/// In which order the threads of a block take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their numbers.
    Forward,
    /// The last first.
    Reverse,
    /// Arbitrarily.
    Shuffled,
}

/// Kernels that are compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Train(Precision),
    Runtime,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Set::Train(Precision::F32) => "f32",
            Set::Train(Precision::Bf16) => "bf16",
            Set::Runtime => "runtime",
        }
    }

    /// Their folder, and the variable that names another one.
    fn folder(self) -> (&'static str, &'static str) {
        match self {
            Set::Train(_) => ("../xelm-train/src/backend/cuda/kernels", "XELM_KERNELS"),
            Set::Runtime => ("../xelm-runtime/src/cuda/kernels", "XELM_RUNTIME_KERNELS"),
        }
    }

    fn defines(self) -> &'static [&'static str] {
        match self {
            Set::Train(Precision::F32) => &["-DXELM_F32", "-DXELM_ENTRIES=\"entries_train.h\""],
            Set::Train(Precision::Bf16) => &["-DXELM_BF16", "-DXELM_ENTRIES=\"entries_train.h\""],
            Set::Runtime => &["-DXELM_ENTRIES=\"entries_runtime.h\""],
        }
    }
}

/// A device of fibres.
#[derive(Debug)]
pub struct Shim {
    precision: Precision,
    order: Order,
    launch: Launch,
    /// The library stays open as long as the device.
    library: libloading::Library,
    memory: HashMap<u64, Vec<Aligned>>,
    /// Launches until the device fails, where it is to fail.
    healthy: Option<usize>,
}

/// Memory as the driver aligns it.
#[derive(Clone, Copy, Debug)]
#[repr(align(256))]
struct Aligned(#[allow(dead_code, reason = "read through addresses")] [u8; 256]);

impl Shim {
    /// Compiles the kernels of a precision, or finds them compiled; none where there is no C++ compiler
    /// for x86-64, which is said on stderr.
    pub fn new(precision: Precision, order: Order) -> Option<Self> {
        let path = compile(precision)?;
        // SAFETY: the library is the one just compiled; its initialisers are those of the shim.
        let library = unsafe { libloading::Library::new(path) }.expect("the compiled shim opens");
        // SAFETY: the symbol has this type in tests/cuda/launch.cpp.
        let launch =
            *unsafe { library.get::<Launch>(b"shim_launch\0") }.expect("the shim's launch");
        Some(Shim { precision, order, launch, library, memory: HashMap::new(), healthy: None })
    }

    /// The same device, which fails after some launches as a card does: nothing is computed any more, and
    /// what is copied back is an error.
    pub fn failing_after(self, n_launches: usize) -> Self {
        Shim { healthy: Some(n_launches), ..self }
    }

    fn check(&self) -> Result<()> {
        match self.healthy {
            Some(0) => Err(Error::Device("the device was made to fail".into())),
            _ => Ok(()),
        }
    }

    /// The names of the kernels that this process has executed in this precision.
    pub fn launched(&self) -> BTreeSet<String> {
        let launched = LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner);
        let own = launched.iter().filter(|(_, precision)| *precision == self.precision as u8);
        own.map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The names of all kernels.
    pub fn kernels(&self) -> BTreeSet<String> {
        type Count = unsafe extern "C" fn() -> c_uint;
        type Name = unsafe extern "C" fn(c_uint) -> *const c_char;
        // SAFETY: the symbols have these types in tests/cuda/launch.cpp.
        let count = unsafe { self.library.get::<Count>(b"shim_kernels\0") }.expect("a count");
        // SAFETY: as above.
        let name = unsafe { self.library.get::<Name>(b"shim_kernel_name\0") }.expect("names");
        // SAFETY: the function takes nothing and returns a number.
        let n = unsafe { count() };
        let names = (0..n).map(|i| {
            // SAFETY: i is below the count.
            let name = unsafe { name(i) };
            // SAFETY: the name is a string literal of the library.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        });
        names.collect()
    }
}

/// `XELM_KERNELS` names another folder of kernels (with a mistake planted, say), `XELM_SHIM_FLAGS`
/// further flags of the compiler.
fn compile(precision: Precision) -> Option<PathBuf> {
    build(Set::Train(precision), "launch.cpp", "shim")
}

/// A folder for `LD_LIBRARY_PATH` with a `libcuda.so` that runs the kernels of one precision on this CPU: a
/// driver without a card (`tests/cuda/fake_driver.cpp`), and a `libcublasLt.so` and a `libnccl.so.2` where asked
/// for (`tests/cuda/fake_cublaslt.cpp`, `fake_nccl.cpp`). None as in [`Shim::new`].
pub fn fake_driver(precision: Precision, with_libraries: bool) -> Option<PathBuf> {
    let set = Set::Train(precision);
    let driver = build(set, "fake_driver.cpp", "driver")?;
    let folder = driver.with_extension(if with_libraries { "lt.d" } else { "d" });
    put(&driver, &folder, "libcuda.so");
    if with_libraries {
        put(&build(set, "fake_cublaslt.cpp", "cublaslt")?, &folder, "libcublasLt.so");
        put(&build(set, "fake_nccl.cpp", "nccl")?, &folder, "libnccl.so.2");
    }
    Some(folder)
}

static PUTTING: Mutex<()> = Mutex::new(());

fn put(built: &Path, folder: &Path, name: &str) {
    let _alone = PUTTING.lock().unwrap_or_else(PoisonError::into_inner);
    let to = folder.join(name);
    // The folder's name has the hash of what is in it, and another process may have opened it.
    if to.exists() {
        return;
    }
    fs::create_dir_all(folder).expect("a folder for the driver");
    let unfinished = folder.join(format!("{name}.{}.tmp", std::process::id()));
    fs::copy(built, &unfinished).expect("the library is copied");
    fs::rename(&unfinished, to).expect("the library moves into place");
}

/// A folder for `LD_LIBRARY_PATH` with a `libcuda.so` that runs the runtime's kernels on this CPU. None as in
/// [`Shim::new`].
pub fn fake_runtime_driver() -> Option<PathBuf> {
    let driver = build(Set::Runtime, "fake_driver.cpp", "driver")?;
    let folder = driver.with_extension("d");
    put(&driver, &folder, "libcuda.so");
    Some(folder)
}

/// A driver in this process: whoever looks for `libcuda.so` from now on finds it.
#[derive(Debug)]
pub struct FakeDriver {
    library: libloading::Library,
    _cublaslt: Option<libloading::Library>,
}

fn open(path: &Path) -> libloading::Library {
    // SAFETY: the library is the one just compiled; its initialisers are those of the shim.
    unsafe { libloading::Library::new(path) }.expect("the compiled library opens")
}

/// What a [`FakeDriver`] counts, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Allocations of the card's memory.
    pub allocations: i64,
    /// Kernels that ran.
    pub launches: i64,
    /// Graphs that ran.
    pub graph_launches: i64,
}

impl FakeDriver {
    /// Loads the driver of [`fake_runtime_driver`]. None as in [`Shim::new`].
    pub fn load() -> Option<Self> {
        let library = open(&build(Set::Runtime, "fake_driver.cpp", "driver")?);
        Some(FakeDriver { library, _cublaslt: None })
    }

    /// Loads the driver of [`fake_driver`] with its `libcublasLt.so`. None as in [`Shim::new`].
    pub fn load_for_training(precision: Precision) -> Option<Self> {
        let set = Set::Train(precision);
        let library = open(&build(set, "fake_driver.cpp", "driver")?);
        let cublaslt = open(&build(set, "fake_cublaslt.cpp", "cublaslt")?);
        Some(FakeDriver { library, _cublaslt: Some(cublaslt) })
    }

    /// In which order the threads of a block take turns from now on.
    pub fn set_order(&self, order: Order) {
        type SetOrder = unsafe extern "C" fn(c_uint);
        // SAFETY: the symbol has this type in tests/cuda/fake_driver.cpp.
        let set_order =
            unsafe { self.library.get::<SetOrder>(b"fake_set_order\0") }.expect("the setter");
        // SAFETY: the number is one of the shim's orders.
        unsafe { set_order(order as c_uint) };
    }

    /// A kernel that has not run yet.
    pub fn never_launched(&self) -> Option<String> {
        type Name = unsafe extern "C" fn() -> *const c_char;
        // SAFETY: the symbol has this type in tests/cuda/fake_driver.cpp.
        let name = unsafe { self.library.get::<Name>(b"fake_never_launched\0") }.expect("the name");
        // SAFETY: the function takes nothing and returns a pointer.
        let name = unsafe { name() };
        // SAFETY: where it is not null, a string literal of the library.
        let text = |name| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        (!name.is_null()).then(|| text(name))
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        type Count = unsafe extern "C" fn(c_uint) -> i64;
        // SAFETY: the symbol has this type in tests/cuda/fake_driver.cpp.
        let count = unsafe { self.library.get::<Count>(b"fake_count\0") }.expect("the counter");
        // SAFETY: the number is one of its three.
        let of = |what| unsafe { count(what) };
        Counts { allocations: of(0), launches: of(1), graph_launches: of(2) }
    }
}

fn build(set: Set, source: &str, what: &str) -> Option<PathBuf> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        eprintln!("skipped: the shim runs on x86-64 Linux");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (own, other) = set.folder();
    let test = env::current_exe().expect("the test's own path");
    let (kernels, out) = match env::var_os(other).map(PathBuf::from) {
        Some(folder) => (folder.clone(), folder),
        None => (root.join(own), test.parent().expect("a folder").to_owned()),
    };
    let flags = env::var("XELM_SHIM_FLAGS").unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    for folder in [&kernels, &root.join("cuda")] {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.expect("a folder's entry").path())
            .filter(|path| path.extension().is_some_and(|e| e != "so"))
            .collect();
        files.sort();
        for file in files {
            fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).hash(&mut hasher);
        }
    }
    let name = set.name();
    static COMPILING: Mutex<()> = Mutex::new(());
    let _alone = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    let built = out.join(format!("xelm-{what}-{name}-{:016x}.so", hasher.finish()));
    if built.exists() {
        return Some(built);
    }
    let compiler = env::var_os("CXX").unwrap_or_else(|| OsStr::new("c++").to_owned());
    let unfinished = built.with_extension(format!("{}.tmp", std::process::id()));
    let output = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O2",
            // Kernels read numbers in packs, as CUDA allows.
            "-fno-strict-aliasing",
            "-g",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        .args(set.defines())
        // The names by which programs look for a driver and its library.
        .args((what == "driver").then_some("-Wl,-soname,libcuda.so"))
        .args((what == "cublaslt").then_some("-Wl,-soname,libcublasLt.so"))
        .args((what == "nccl").then_some("-Wl,-soname,libnccl.so.2"))
        .args(flags.split_whitespace())
        .arg("-I")
        .arg(&kernels)
        .arg(root.join("cuda").join(source))
        .arg("-o")
        .arg(&unfinished)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: no C++ compiler {}", compiler.display());
        return None;
    };
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the kernels do not compile for the shim:\n{messages}");
    fs::rename(&unfinished, &built).expect("the compiled shim moves into place");
    Some(built)
}

impl Device for Shim {
    fn precision(&self) -> Precision {
        self.precision
    }

    /// Every byte of new memory is 0xff: numbers read before they are written are NaN.
    fn allocate(&mut self, n_bytes: usize) -> Result<Ptr> {
        let memory = vec![Aligned([0xff; 256]); n_bytes.div_ceil(256)];
        let at = memory.as_ptr() as u64;
        self.memory.insert(at, memory);
        Ok(Ptr(at))
    }

    fn free(&mut self, memory: Ptr) {
        self.memory.remove(&memory.0).expect("memory of this device");
    }

    fn upload(&mut self, to: Ptr, bytes: &[u8]) {
        // SAFETY: the address lies in memory of this device with room for the bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
    }

    fn download(&mut self, from: Ptr, bytes: &mut [u8]) -> Result<()> {
        self.check()?;
        let to = bytes.as_mut_ptr();
        // SAFETY: the address lies in memory of this device that holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to, bytes.len()) };
        Ok(())
    }

    fn clear(&mut self, at: Ptr, n_bytes: usize) {
        // SAFETY: the address lies in memory of this device with room for the bytes.
        unsafe { std::ptr::write_bytes(at.0 as *mut u8, 0, n_bytes) };
    }

    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], block: u32, args: &[Arg]) {
        match &mut self.healthy {
            Some(0) => return,
            Some(n) => *n -= 1,
            None => {}
        }
        LAUNCHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((kernel, self.precision as u8));
        let name = CString::new(kernel).expect("a kernel's name");
        let args: Vec<*mut c_void> = args.iter().map(Arg::as_ptr).collect();
        let order = self.order as c_uint;
        let (n, args) = (args.len() as c_uint, args.as_ptr());
        let _alone = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: one launch at a time; the shim counts the arguments, whose types and
        // addresses are what is tested.
        let outcome = unsafe { (self.launch)(name.as_ptr(), grid.as_ptr(), block, order, args, n) };
        assert_ne!(outcome, 1, "there is no kernel {kernel}");
        assert_eq!(outcome, 0, "{kernel} has another number of arguments");
    }

    /// There is no library: our own kernels multiply.
    fn multiply(&mut self, _: &Product) -> bool {
        false
    }

    fn finish(&mut self) -> Result<()> {
        self.check()
    }
}
