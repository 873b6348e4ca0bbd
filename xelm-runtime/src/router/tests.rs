use super::*;
use crate::arena::Arena;
use crate::format::Writer;
use crate::rng::Rng;
use std::string::String;
use std::vec::Vec;

const TERMS: [&str; 6] = ["haus", "οδος", "οδοσ", "maison", "日", "日本"];
const IDF: [f32; 6] = [1.5, 2.0, 2.5, 1.0, 3.0, 1.25];
const PROJECTION: [f32; 18] = [
    0.5, -0.25, 0.125, 1.0, 0.0, -1.0, 0.0, 0.75, 0.5, -0.5, 0.25, 0.0, 0.1, 0.2, 0.3, -0.4, 0.5,
    -0.6,
];
const CENTROIDS: [f32; 6] = [0.5, 0.0, 0.5, 0.0, -0.5, 0.25];

fn tables(rule: Rule) -> Tables<'static, &'static str> {
    let (terms, idf, projection, centroids) = (&TERMS, &IDF, &PROJECTION, &CENTROIDS);
    Tables { rule, terms, idf, projection, centroids, n_dims: 3 }
}

/// A file of its own for `tensors`, at an aligned place of the returned bytes.
struct File {
    bytes: Vec<u8>,
    start: usize,
}

impl File {
    fn new(writer: Writer, write: impl FnOnce(&mut crate::format::Body<&mut Vec<u8>>)) -> File {
        let mut whole = Vec::new();
        let mut body = writer.begin(&mut whole).unwrap();
        write(&mut body);
        body.finish().unwrap();
        File::aligned(&whole)
    }

    fn aligned(whole: &[u8]) -> File {
        let mut bytes = std::vec![0; whole.len() + 64];
        let start = bytes.as_ptr().align_offset(64);
        bytes[start..start + whole.len()].copy_from_slice(whole);
        bytes.truncate(start + whole.len());
        File { bytes, start }
    }

    fn whole(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn router(&self) -> Result<Option<Router<'_>>> {
        Router::open(&Gguf::open(self.whole())?)
    }
}

fn file(tables: &Tables<'_, &str>, precision: Precision) -> File {
    let tensors = RouterTensors::new(tables, precision).unwrap();
    let mut writer = Writer::new("xelm-set");
    tensors.describe(&mut writer).unwrap();
    File::new(writer, |body| tensors.write(body).unwrap())
}

/// The vector of a text fed in the pieces that `cut` makes.
fn vector<'t>(router: &Router<'_>, pieces: impl IntoIterator<Item = &'t str>) -> Vec<f32> {
    let mut plan = Arena::measure();
    Context::carve(&mut plan, Some(router)).unwrap();
    let mut memory = std::vec![0xffu8; plan.used() + 64];
    let start = memory.as_ptr().align_offset(64);
    let mut arena = Arena::new(&mut memory[start..][..plan.used()]).unwrap();
    let mut context = Context::carve(&mut arena, Some(router)).unwrap();
    for piece in pieces {
        context.feed(router, piece);
        // Looking at it changes nothing.
        context.vector(router);
    }
    context.vector(router).to_vec()
}

fn unit(sums: [f32; 3]) -> [f32; 3] {
    let norm = math_norm(&sums);
    sums.map(|x| x / norm)
}

fn math_norm(x: &[f32]) -> f32 {
    crate::math::sqrt(x.iter().map(|x| x * x).sum())
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance, "{a:?} {b:?}");
    }
}

#[test]
fn a_vector_is_the_weighted_sum_of_its_words() {
    for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::I8, 1e-2)] {
        let file = file(&tables(Rule::Sklearn), precision);
        let router = file.router().unwrap().unwrap();
        assert_eq!((router.n_dims(), router.n_terms(), router.n_experts()), (3, 6, 2));
        assert_eq!((router.rule(), router.term("maison")), (Rule::Sklearn, Some(3)));
        assert_eq!(router.term("mais"), None);
        assert_eq!(router.terms().unwrap(), TERMS);
        // Two known words, one twice, one of them still growing; one unknown.
        let x = vector(&router, ["Das HAUS, la maison; Haus"]);
        let sum = |d: usize| 2.0 * 1.5 * PROJECTION[d] + 1.0 * PROJECTION[9 + d];
        close(&x, &unit([sum(0), sum(1), sum(2)]), tolerance);
        // The sigma is final as long as nothing follows.
        close(&vector(&router, ["ΟΔΟΣ"]), &unit([1.0, 0.0, -1.0]), tolerance);
        close(&vector(&router, ["ΟΔΟΣ", ".Α"]), &unit([0.0, 0.75, 0.5]), tolerance);
        for empty in ["", "unbekannt", "hau", "hausx 1haus"] {
            assert_eq!(vector(&router, [empty]), [0.0; 3], "{empty:?}");
        }
    }
}

#[test]
fn pieces_give_the_same_bits_as_the_whole() {
    let text = "Haus ΟΔΟΣ.Α maison 日本 xhaus οδος HAUS, ΟΔΟΣ' ΟΔΟΣ日本日 haus_ maison3 3maison";
    let mut rng = Rng::new(3, 0);
    for rule in [Rule::Unicode, Rule::Sklearn] {
        for precision in [Precision::F32, Precision::I8] {
            let file = file(&tables(rule), precision);
            let router = file.router().unwrap().unwrap();
            let whole = vector(&router, [text]);
            assert!((math_norm(&whole) - 1.0).abs() < 1e-6);
            for _ in 0..50 {
                let mut pieces = Vec::new();
                let mut rest = text;
                while !rest.is_empty() {
                    let n = 1 + rng.below(9) as usize;
                    let at = rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
                    pieces.push(&rest[..at]);
                    rest = &rest[at..];
                }
                assert_eq!(vector(&router, pieces), whole);
            }
        }
    }
}

#[test]
fn no_router_no_memory() {
    let empty = File::new(Writer::new("xelm-set"), |_| {});
    assert!(empty.router().unwrap().is_none());
    let mut arena = Arena::measure();
    let mut context = Context::carve(&mut arena, None).unwrap();
    context.reset();
    assert_eq!(arena.used(), 0);
}

#[test]
fn weights_are_a_softmax_over_the_present() {
    let file = file(&tables(Rule::Unicode), Precision::F32);
    let router = file.router().unwrap().unwrap();
    let x = unit([1.0, 0.5, -0.5]);
    let d2 = |e: usize| (0..3).map(|d| (x[d] - CENTROIDS[3 * e + d]).powi(2)).sum::<f32>();
    let mut out = [9.0f32; 2];
    let mut weights = |power, temperature, present: &dyn Fn(usize) -> bool| {
        router.weights(&x, &RouteOptions { power, temperature }, present, &mut out).map(|()| out)
    };
    let all = &|_| true;
    for (power, p) in [(Power::Paper, 1), (Power::Release, 2)] {
        for temperature in [0.1f32, 1.0, 30.0] {
            let [a, b] = [0, 1].map(|e| libm::exp(f64::from(-d2(e).powi(p) / temperature)) as f32);
            let got = weights(power, temperature, all).unwrap();
            close(&got, &[a / (a + b), b / (a + b)], 1e-5);
            assert!((got[0] + got[1] - 1.0).abs() < 1e-6);
        }
    }
    assert_eq!(weights(Power::Paper, 0.1, &|e| e == 1), Ok([0.0, 1.0]));
    assert_eq!(weights(Power::Paper, 1e-38, all).map(|w| w.iter().sum()), Ok(1.0));
    assert_eq!(weights(Power::Paper, 0.1, &|_| false), Err(Error::NoExpert));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let what = "route_temperature";
        assert_eq!(weights(Power::Paper, bad, all), Err(Error::BadParameter { what }));
    }
    let nearest = if d2(0) < d2(1) { 0 } else { 1 };
    assert_eq!(router.nearest(&x, all), Some(nearest));
    assert_eq!(router.nearest(&x, &|e| e != nearest), Some(1 - nearest));
    assert_eq!(router.nearest(&x, &|_| false), None);

    let options = RouteOptions::default();
    router.weights(&[0.0; 3], &options, all, &mut out).unwrap();
    assert_eq!((out, router.nearest(&[0.0; 3], &|e| e == 1)), ([0.5, 0.5], Some(1)));
    assert!(router.weights(&[f32::NAN; 3], &options, all, &mut out).is_err());
    assert!(router.weights(&[0.0; 2], &options, all, &mut out).is_err());
    assert!(router.weights(&x, &options, all, &mut [0.0; 3]).is_err());
}

/// Takes a router apart, changes one thing, and opens it again.
fn changed(change: impl FnOnce(&mut Vec<Part>, &mut Vec<Key>)) -> Result<()> {
    let original = file(&tables(Rule::Unicode), Precision::I8);
    let gguf = Gguf::open(original.whole()).unwrap();
    let mut parts: Vec<Part> = gguf
        .tensors()
        .map(|t| (String::from(t.name), t.dtype, t.dims[..t.n_dims].to_vec(), t.bytes.to_vec()))
        .collect();
    let mut keys = std::vec![
        (String::from(keys::VERSION), Ok(VERSION)),
        (String::from(keys::RULE), Err(String::from("unicode"))),
    ];
    change(&mut parts, &mut keys);
    let mut writer = Writer::new("xelm-set");
    for (key, value) in &keys {
        match value {
            Ok(number) => writer.u32(key, *number),
            Err(text) => writer.string(key, text),
        }
    }
    for (name, dtype, dims, _) in &parts {
        writer.tensor(name, *dtype, dims).unwrap();
    }
    File::new(writer, |body| parts.iter().for_each(|p| body.tensor([&p.3]).unwrap()))
        .router()
        .map(drop)
}

type Part = (String, DType, Vec<usize>, Vec<u8>);
type Key = (String, core::result::Result<u32, String>);

#[test]
fn broken_tables_are_refused() {
    assert_eq!(changed(|_, _| {}), Ok(()));
    let missing = |key| Err(Error::MissingKey { key });
    assert_eq!(changed(|_, keys| drop(keys.remove(0))), missing(keys::VERSION));
    assert_eq!(changed(|_, keys| drop(keys.remove(1))), missing(keys::RULE));
    let out_of_range = |what| Err(Error::OutOfRange { what });
    assert_eq!(changed(|_, keys| keys[0].1 = Ok(2)), out_of_range(keys::VERSION));
    assert_eq!(changed(|_, keys| keys[1].1 = Err("utf8".into())), out_of_range(keys::RULE));
    assert_eq!(changed(|_, keys| keys[1].1 = Ok(0)), Err(Error::WrongType { key: keys::RULE }));
    for name in [
        tensors::TERMS,
        tensors::IDF,
        tensors::PROJECTION,
        tensors::PROJECTION_SCALE,
        tensors::CENTROIDS,
    ] {
        let at = |parts: &[Part]| parts.iter().position(|p| p.0 == name).unwrap();
        let without = changed(|parts, _| drop(parts.remove(at(parts))));
        assert_eq!(without, Err(Error::MissingTensor { name }));
        let wrong_type = changed(|parts, _| {
            let at = at(parts);
            let n = parts[at].2.iter().product::<usize>();
            (parts[at].1, parts[at].3) = (DType::F16, std::vec![0; 2 * n]);
        });
        assert_eq!(wrong_type, Err(Error::WrongShape { name }));
        let another_dim = changed(|parts, _| {
            let at = at(parts);
            parts[at].2.push(2);
            let bytes = parts[at].3.clone();
            parts[at].3.extend(bytes);
        });
        assert_eq!(another_dim, Err(Error::WrongShape { name }));
        let number = |x: f32| {
            changed(|parts, _| {
                let at = at(parts);
                parts[at].3[4..8].copy_from_slice(&x.to_le_bytes());
            })
        };
        if ![tensors::TERMS, tensors::PROJECTION].contains(&name) {
            for bad in [f32::NAN, f32::INFINITY, -2e6] {
                assert_eq!(number(bad), out_of_range("a number of the router"), "{name}");
            }
            assert_eq!(number(-1e6), Ok(()));
        }
    }
    // One term fewer in the tables than in the trie.
    let short = changed(|parts, _| {
        for (name, dtype, dims, bytes) in parts.iter_mut() {
            if ![tensors::TERMS, tensors::CENTROIDS].contains(&name.as_str()) {
                let last = dims.len() - 1;
                let row = bytes.len() / dims[last];
                dims[last] -= 1;
                bytes.truncate(bytes.len() - row);
                assert_ne!(*dtype, DType::I32);
            }
        }
    });
    assert_eq!(short, out_of_range(tensors::TERMS));
    let cut_trie = changed(|parts, _| {
        let (_, _, dims, bytes) = &mut parts[0];
        dims[0] /= 2;
        bytes.truncate(4 * dims[0]);
    });
    assert_eq!(cut_trie, out_of_range(tensors::TERMS));
}

/// Centroids belong to the experts of a set one to one.
#[test]
fn a_set_has_as_many_experts_as_its_router() {
    for (n, result) in [(2, Ok(())), (3, Err(Error::WrongShape { name: tensors::CENTROIDS }))] {
        let tensors = RouterTensors::new(&tables(Rule::Unicode), Precision::I8).unwrap();
        let mut writer = Writer::new("xelm-set");
        writer.strings(set::keys::IDS, &["a", "b", "c"][..n]);
        tensors.describe(&mut writer).unwrap();
        let file = File::new(writer, |body| tensors.write(body).unwrap());
        assert_eq!(file.router().map(drop), result);
    }
}

#[test]
fn any_change_of_the_bytes_is_safe() {
    let whole = file(&tables(Rule::Unicode), Precision::I8).whole().to_vec();
    let mut rng = Rng::new(8, 0);
    for i in 0..3000 {
        let mut bytes = whole.clone();
        if i % 3 == 0 {
            bytes.truncate(rng.below(whole.len() as u32) as usize);
        } else {
            bytes[rng.below(whole.len() as u32) as usize] ^= 1 << rng.below(8);
        }
        let file = File::aligned(&bytes);
        if let Ok(Some(router)) = file.router() {
            let x = vector(&router, ["Haus ΟΔΟΣ.Α mai", "son 日本 haus"]);
            assert!(x.iter().all(|x| x.is_finite()));
            let mut out = std::vec![0.0; router.n_experts()];
            router.weights(&x, &RouteOptions::default(), &|_| true, &mut out).unwrap();
            assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn tables_that_do_not_fit_are_not_written() {
    let good = tables(Rule::Unicode);
    let new = |tables: &Tables<'_, &str>| RouterTensors::new(tables, Precision::I8).map(drop);
    assert_eq!(new(&good), Ok(()));
    assert!(new(&Tables { terms: &TERMS[..5], ..good }).is_err());
    assert!(new(&Tables { terms: &["a", "b", "c", "d", "e", "a"], ..good }).is_err());
    assert!(new(&Tables { terms: &["a", "b", "c", "d", "e", ""], ..good }).is_err());
    assert!(
        new(&Tables { n_dims: 4, ..good }).is_err() && new(&Tables { n_dims: 0, ..good }).is_err()
    );
    assert!(new(&Tables { centroids: &[], ..good }).is_err());
    let mut idf = IDF;
    idf[2] = f32::NAN;
    assert!(new(&Tables { idf: &idf, ..good }).is_err());
    let none: Tables<'_, &str> = Tables { terms: &[], idf: &[], projection: &[], ..good };
    assert!(new(&none).is_err());
}
