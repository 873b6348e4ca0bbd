use super::*;
use crate::typology::donor;
use std::fs;
use std::path::PathBuf;

fn strings(words: &str) -> Vec<String> {
    words.split_ascii_whitespace().map(str::to_owned).collect()
}

/// A folder with the files.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join(files[0].0);
    (folder, path)
}

fn read(text: &str, languages: &str, also: &str, at_least: usize) -> Result<Features> {
    let (_folder, path) = folder(&[("features.csv", text)]);
    Features::read(&path, &strings(languages), &strings(also), at_least)
}

/// As lang2vec's features look, with what may be unknown in all spellings. Unknown: SWE c, POL d, FIN b e.
const VECTORS: &str = "\u{feff}lang,S_A,S_B,S_C,S_D,S_E,S_ALL
swe,1,0,--,1,0.5,1
pol,1,1,0,nan,1,1
fin,0,,1,1,--,1
deu,1,1,1,1,1,1
";

#[test]
fn vectors() {
    let tabs = VECTORS.replace(',', "\t").replace('\n', "\r\n");
    for text in [VECTORS, &tabs] {
        let features = read(text, "sv pl fi", "", 1).unwrap();
        assert_eq!(features.names, strings("S_A S_B S_C S_D S_E"));
        assert_eq!((features.n_constant, features.n_categories()), (1, 0));
        assert_eq!(features.known(), [4, 4, 3]);
        let distances = features.distances();
        assert_eq!(distances.tags, strings("sv pl fi"));
        // sv: 1 0 . 1 ½, pl: 1 1 0 . 1, fi: 0 . 1 1 .; shared products over own norms.
        let close = |a: usize, b: usize, expected: f64| {
            assert!((distances.between(a, b) - expected).abs() < 1e-15);
            assert_eq!(distances.between(a, b), distances.between(b, a));
        };
        close(0, 1, 1.0 - 1.5 / (2.25_f64 * 3.0).sqrt());
        close(0, 2, 1.0 - 1.0 / (2.25_f64 * 2.0).sqrt());
        close(1, 2, 1.0 - 0.0);
        assert!((0..3).all(|i| distances.between(i, i) == 0.0));
    }
}

/// What is constant is decided by the languages that are grouped; unknown is not the same as known.
#[test]
fn constant_features() {
    let features = read(VECTORS, "pl de", "", 1).unwrap();
    assert_eq!(features.names, strings("S_C S_D"));
    let more = read(VECTORS, "pl de", "fi pl", 1).unwrap();
    assert_eq!((more.names, more.languages), (features.names, strings("pl de fi")));
}

const MATRIX: &str = "lang,1A,2A,3A,order
ca,1,2,1,SVO
eu,1,,10,SOV
gl,2,2,1,SVO
ca+ib,1,2,3,VSO
";
const LONG: &str = "ID,Language_ID,Parameter_ID,Value,Comment
1,cat,1A,1,\"a comment, with a comma
and a second line\"
2,bsq,1A,1,
3,glg,1A,2,
4,cat,2A,2,
5,glg,2A,2,
6,cat,3A,1,
7,bsq,3A,10,
8,glg,3A,1,
9,cat,order,SVO,
10,bsq,order,SOV,
11,glg,order,SVO,
12,cat,3A,2,the first counts
13,xyz,4A,1,
";
const LANGUAGES: &str = "ID,Name,ISO639P3code\nbsq,Basque,eus\ncat,Catalan,cat\nxyz,Unwanted,\n";

/// Categories are equal or not, however they are numbered; both forms say the same.
#[test]
fn categories() {
    let matrix = read(MATRIX, "ca eu gl", "", 3).unwrap();
    let (_folder, path) = folder(&[("values.csv", LONG), ("languages.csv", LANGUAGES)]);
    let long = Features::read(&path, &strings("ca eu gl"), &[], 3).unwrap();
    for features in [matrix, long] {
        assert_eq!(features.names, strings("1A 2A 3A order"));
        assert_eq!(features.n_categories(), 4);
        assert_eq!(features.known(), [4, 3, 4]);
        let distances = features.distances();
        assert!((distances.between(0, 1) - (1.0 - 1.0 / 12.0_f64.sqrt())).abs() < 1e-15);
        assert_eq!(distances.between(0, 2), 0.25);
        assert_eq!(distances.between(1, 2), 1.0);
    }
}

#[test]
fn the_nearest_and_best_known_row_counts() {
    let text = "code,a,b,c\nnn,1,0,1\nnob,0,1,\narz,1,1,1\nyue,0,0,1\nzho,1,0,0\ncmn,1,--,--\n";
    let features = read(text, "no zh yue-HK", "", 1).unwrap();
    let numbers = |i: usize| -> Vec<Option<f64>> {
        let number = |v: &Option<Value>| match v {
            Some(Value::Number(x)) => Some(*x),
            _ => None,
        };
        features.values[i].iter().map(number).collect()
    };
    assert_eq!(numbers(0), [Some(0.0), Some(1.0), None]);
    assert_eq!(numbers(1), [Some(1.0), Some(0.0), Some(0.0)]);
    assert_eq!(numbers(2), [Some(0.0), Some(0.0), Some(1.0)]);
    // Egyptian Arabic is a relative of standard Arabic, not the same.
    assert!(read(text, "ar no", "", 1).unwrap_err().to_string().contains("no row for ar"));
}

#[test]
fn refusals_name_what_is_wrong() {
    let wrong = |text: &str, languages: &str, at_least, needle: &str| {
        let error = read(text, languages, "", at_least).unwrap_err().to_string();
        assert!(error.contains(needle) && !error.contains('\n'), "{error}");
    };
    wrong(VECTORS, "sv pl fi de", 4, "fewer than 4 features of fi (3)");
    wrong(VECTORS, "sv et pl hu", 1, "no row for et, hu");
    wrong(VECTORS, "sv", 0, "fewer than 1 features of sv (0)");
    wrong("lang,a\nsv,1\nsv,2\n", "sv", 1, "two rows");
    wrong("lang,a\nsv,1,2\n", "sv", 1, "line: 2");
    wrong("lang\nsv\n", "sv", 1, "one of features");
    wrong("", "sv", 1, "one of features");
    wrong("lang,a\n", "sv", 1, "no row");
    assert!(Features::read(Path::new("/none.csv"), &strings("sv"), &[], 1).is_err());
    let (_folder, path) = folder(&[("features.csv", "")]);
    fs::write(&path, b"lang,a\nsv,\xff\n").unwrap();
    assert!(Features::read(&path, &strings("sv"), &[], 1).is_err());
}

/// A language of which nothing but zeros is known is unlike all others; none of it is divided by zero.
#[test]
fn zeros() {
    let features = read("lang,a,b\nsv,0,0\npl,1,0\nfi,1,1\n", "sv pl fi", "", 1).unwrap();
    let distances = features.distances();
    assert_eq!((distances.between(0, 1), distances.between(0, 2)), (1.0, 1.0));
    assert!(distances.between(1, 2) < 0.3);
}

/// The donors that the X-ELM paper's features give, as far as those of WALS give them too. Needs the
/// tables in the folder XELM_TYPOLOGY.
#[test]
fn donors_by_wals() {
    let Some(folder) = std::env::var_os("XELM_TYPOLOGY").map(PathBuf::from) else {
        eprintln!("skipped: XELM_TYPOLOGY names no folder with wals_matrix.csv");
        return;
    };
    let languages = strings("en fr es de el bg ru tr ar vi zh hi sw ur ja ko");
    let read = |name: &str| {
        let new = strings("az he pl sv");
        Features::read(&folder.join(name), &languages, &new, 10).unwrap()
    };
    let (matrix, long) = (read("wals_matrix.csv"), read("wals_values_long.csv"));
    assert_eq!(matrix.known(), long.known());
    let distances = matrix.distances();
    for (a, b) in distances.values.iter().zip(long.distances().values) {
        assert!((a - b).abs() < 1e-12, "the two forms of the table differ");
    }
    for (new, expected) in [("az", "tr"), ("he", "ar"), ("pl", "ru"), ("sv", "en")] {
        let (found, distance) = donor(&distances, new, &languages).unwrap();
        eprintln!("{new}: {found} at {distance:.4}; the paper has {expected}");
    }
    eprintln!("known: {:?}", matrix.languages.iter().zip(matrix.known()).collect::<Vec<_>>());
}
