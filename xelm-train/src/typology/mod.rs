//! Which languages are alike: distances between their grammars, shipped for 20 languages and computed
//! from features for any other, and the clusters and donors that follow from them.

mod cluster;
mod explain;
mod features;

pub use cluster::{Cluster, Node, cluster, rounds};
pub use explain::Explanation;
pub use features::Features;

use crate::{Error, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use xelm_runtime::format::AtomicFile;
use xelm_runtime::lang::Tag;

/// Pairwise distances of 20 languages: cosine distances of lang2vec's `syntax_average` features with
/// each language's norm over its own known features. CC BY-SA 4.0, see `data/LICENSE`.
const TABLE: &str = include_str!("../../data/typology.tsv");

/// Distances between languages.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    /// Language tags in the order that numbers clusters.
    pub tags: Vec<String>,
    /// `tags.len()²` distances, row by row; infinite where a pair is unknown.
    pub values: Vec<f64>,
}

impl Distances {
    /// The shipped table: the paper's 16 languages, then its 4 new ones.
    pub fn shipped() -> Self {
        let table = parse(TABLE);
        debug_assert!(table.is_some());
        table.unwrap_or(Distances { tags: Vec::new(), values: Vec::new() })
    }

    /// Reads a table as [`Distances::save`] writes it.
    ///
    /// # Errors
    /// It cannot be read, or is not square, or holds something else than distances.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        parse(&text).ok_or_else(|| {
            Error::usage(format!(
                "{} is no square table of distances between language tags: remove it and cluster \
                 again",
                path.display()
            ))
        })
    }

    /// Writes the table: tab-separated, a header of tags, a row per language that begins with its tag.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for tag in &self.tags {
            let _ = write!(text, "\t{tag}"); // writing to a String cannot fail
        }
        for (tag, row) in self.tags.iter().zip(self.values.chunks(self.tags.len().max(1))) {
            text += &format!("\n{tag}");
            for distance in row {
                let _ = write!(text, "\t{distance}");
            }
        }
        text.push('\n');
        AtomicFile::write(path, text.as_bytes()).map_err(Error::io("write", path))
    }

    /// Where a language, another form of it, or else its macrolanguage stands in the table.
    pub fn index(&self, language: &str) -> Option<usize> {
        let wanted = Tag::new(language).ok()?;
        let nearness = |tag: &String| wanted.nearness(&Tag::new(tag).ok()?);
        let known = self.tags.iter().enumerate().filter_map(|(i, tag)| Some((nearness(tag)?, i)));
        known.min().map(|(_, i)| i)
    }

    /// The distance of two languages by index.
    pub fn between(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.tags.len() + b]
    }

    /// All languages from the nearest to `language` to the farthest, itself first.
    pub fn nearest(&self, language: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.tags.len()).collect();
        order.sort_by(|&a, &b| {
            let of = |i: usize| (i != language, self.between(language, i));
            of(a).0.cmp(&of(b).0).then(of(a).1.total_cmp(&of(b).1)).then(a.cmp(&b))
        });
        order
    }

    /// These distances and, for pairs without one, those of `other`. The languages of this table come
    /// first. Two languages that no table has both are as far apart as by way of the language that
    /// brings them nearest.
    pub fn with(&self, other: &Distances) -> Distances {
        let mut tags = self.tags.clone();
        tags.extend(other.tags.iter().filter(|tag| self.index_same(tag).is_none()).cloned());
        let places: Vec<_> =
            tags.iter().map(|tag| (self.index_same(tag), other.index_same(tag))).collect();
        let direct = |a: usize, b: usize| match (places[a], places[b]) {
            ((Some(a), _), (Some(b), _)) => self.between(a, b),
            ((_, Some(a)), (_, Some(b))) => other.between(a, b),
            _ => f64::INFINITY,
        };
        let n = tags.len();
        let mut values = Vec::with_capacity(n * n);
        for a in 0..n {
            for b in 0..n {
                let by_way =
                    || (0..n).map(|c| direct(a, c) + direct(c, b)).fold(f64::INFINITY, f64::min);
                let known = Some(direct(a, b)).filter(|d| d.is_finite());
                values.push(known.unwrap_or_else(by_way));
            }
        }
        Distances { tags, values }
    }

    /// Where the same language stands in the table.
    fn index_same(&self, language: &str) -> Option<usize> {
        let wanted = Tag::new(language).ok()?;
        self.tags.iter().position(|tag| Tag::new(tag).is_ok_and(|tag| wanted.matches(&tag)))
    }
}

/// The table in `text`, if it is one.
fn parse(text: &str) -> Option<Distances> {
    let mut lines = text.lines();
    let tags: Vec<String> = lines.next()?.split('\t').skip(1).map(str::to_owned).collect();
    let mut values = Vec::new();
    for (tag, line) in tags.iter().zip(&mut lines) {
        let cells = line.strip_prefix(tag.as_str())?.strip_prefix('\t')?;
        for cell in cells.split('\t') {
            values.push(cell.parse::<f64>().ok().filter(|distance| !distance.is_nan())?);
        }
    }
    let is_square = values.len() == tags.len() * tags.len() && lines.next().is_none();
    let are_tags = tags.iter().all(|tag| Tag::new(tag).is_ok());
    (is_square && are_tags && !tags.is_empty()).then_some(Distances { tags, values })
}

/// The one of `donors` whose grammar is nearest to `target`'s, other than the language itself, and its
/// distance; `None` where the target or all donors are unknown.
pub fn donor<'a>(
    distances: &Distances,
    target: &str,
    donors: &'a [String],
) -> Option<(&'a str, f64)> {
    let target = distances.index(target)?;
    donors
        .iter()
        .filter_map(|donor| Some((donor.as_str(), distances.index(donor)?)))
        .filter(|&(_, donor)| donor != target)
        .map(|(name, donor)| (name, distances.between(target, donor)))
        .filter(|(_, distance)| distance.is_finite())
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &str) -> Vec<String> {
        words.split(' ').map(str::to_owned).collect()
    }

    fn table(tags: &str, values: &[f64]) -> Distances {
        Distances { tags: strings(tags), values: values.to_vec() }
    }

    #[test]
    fn donors_of_the_new_languages() {
        let distances = Distances::shipped();
        let donors = &distances.tags[..16];
        for (new, expected, at) in
            [("az", "tr", 0.250), ("he", "ar", 0.228), ("pl", "ru", 0.2375), ("sv", "en", 0.2166)]
        {
            let (found, distance) = donor(&distances, new, donors).unwrap();
            assert_eq!(found, expected);
            assert!((distance - at).abs() < 6e-4, "{new}: {distance}");
        }
        // The language itself is no donor, whatever it is called; unknown ones are passed over.
        assert_eq!(donor(&distances, "iw", &strings("he ar tlh")).unwrap().0, "ar");
        assert!(donor(&distances, "he", &strings("he tlh")).is_none());
        assert!(donor(&distances, "tlh", donors).is_none());
        assert!(donor(&distances, "he", &[]).is_none());
    }

    #[test]
    fn written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typology.tsv");
        let own = table("pt-BR x-own ca", &[0., 0.1, 1. / 3., 0.1, 0., 0.7, 1. / 3., 0.7, 0.]);
        for distances in [own, Distances::shipped(), table("ca", &[0.0])] {
            distances.save(&path).unwrap();
            assert_eq!(Distances::open(&path).unwrap(), distances);
        }
        for wrong in [
            "",
            "nonsense",
            "\tca\tes\nca\t0\t1\n",
            "\tca\tes\nca\t0\t1\nes\t1\n",
            "\tca\tes\nes\t0\t1\nca\t1\t0\n",
            "\tca\nca\tNaN\n",
            "\tca\nca\t0\nes\t0\n",
            "\tno tag\nno tag\t0\n",
        ] {
            fs::write(&path, wrong).unwrap();
            assert!(Distances::open(&path).is_err(), "{wrong:?}");
        }
        assert!(Distances::open(&folder.path().join("none")).is_err());
    }

    #[test]
    fn own_distances_come_before_others() {
        let own = table("ca spa", &[0., 0.05, 0.05, 0.]);
        let merged = own.with(&Distances::shipped());
        assert_eq!(merged.tags.len(), 21);
        assert_eq!(merged.tags[..3], ["ca", "spa", "en"]);
        let at =
            |a: &str, b: &str| merged.between(merged.index(a).unwrap(), merged.index(b).unwrap());
        assert_eq!(at("ca", "es"), 0.05);
        let shipped = Distances::shipped();
        assert_eq!(at("es", "en"), shipped.between(0, 2));
        // Only Spanish connects Catalan with the rest.
        assert_eq!(at("ca", "en"), 0.05 + shipped.between(0, 2));
        assert_eq!(at("en", "ca"), at("ca", "en"));
        for i in 0..21 {
            assert_eq!(merged.nearest(i)[0], i);
        }
        // Nothing connects these two.
        let apart = table("ca", &[0.0]).with(&table("eu", &[0.0]));
        assert_eq!(apart.between(0, 1), f64::INFINITY);
        assert!(donor(&apart, "ca", &strings("eu")).is_none());
    }
}
