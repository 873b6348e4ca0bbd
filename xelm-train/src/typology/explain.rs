//! Why languages were grouped as they were: the rounds of merging, the distances, what is known.

use super::{Distances, Features, Node, rounds};
use crate::Result;
use serde::Serialize;
use std::fmt;

/// What decided a grouping. Displayed, it is a page for people.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The languages, in the order that numbers clusters.
    pub languages: Vec<String>,
    /// Number of known features by language; absent for the shipped distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Vec<usize>>,
    /// Features that were compared; absent for the shipped distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_features: Option<usize>,
    /// Of these, categories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_categories: Option<usize>,
    /// Features left out, being the same for all languages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_constant: Option<usize>,
    /// Their distances, a row per language; null where unknown.
    pub distances: Vec<Vec<f64>>,
    /// The clusters after each round, from single languages on.
    pub rounds: Vec<Vec<Node>>,
}

impl Explanation {
    /// Explains how `languages` become `k` clusters, and the features where they are at hand.
    ///
    /// # Errors
    /// As [`rounds`].
    pub fn new(
        distances: &Distances,
        features: Option<&Features>,
        languages: &[String],
        k: usize,
    ) -> Result<Self> {
        let rounds = rounds(distances, languages, k)?;
        let order: Vec<String> = rounds[0].iter().map(|node| node.id.clone()).collect();
        let places: Vec<usize> = order.iter().filter_map(|tag| distances.index(tag)).collect();
        let row = |&a: &usize| places.iter().map(|&b| distances.between(a, b)).collect();
        let known = |features: &Features| {
            let known = features.known();
            let place = |tag: &String| features.languages.iter().position(|l| l == tag);
            order.iter().map(|tag| place(tag).map_or(0, |i| known[i])).collect()
        };
        Ok(Explanation {
            known: features.map(known),
            n_features: features.map(|f| f.names.len()),
            n_categories: features.map(Features::n_categories),
            n_constant: features.map(|f| f.n_constant),
            distances: places.iter().map(row).collect(),
            languages: order,
            rounds,
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(all), Some(categories), Some(constant)) =
            (self.n_features, self.n_categories, self.n_constant)
        {
            writeln!(
                f,
                "{all} features, {categories} of them categories; {constant} more are the same for \
                 all languages and left out"
            )?;
        }
        let width = self.languages.iter().map(String::len).max().unwrap_or(0).max(5) + 1;
        write!(f, "{:width$}", "")?;
        for language in &self.languages {
            write!(f, "{language:>width$}")?;
        }
        writeln!(f)?;
        for (language, row) in self.languages.iter().zip(&self.distances) {
            write!(f, "{language:width$}")?;
            for distance in row {
                write!(f, "{distance:>width$.3}")?;
            }
            writeln!(f)?;
        }
        if let Some(known) = &self.known {
            write!(f, "{:width$}", "known")?;
            for known in known {
                write!(f, "{known:>width$}")?;
            }
            writeln!(f)?;
        }
        for (i, round) in self.rounds.iter().enumerate().skip(1) {
            writeln!(f, "round {i}: {} clusters", round.len())?;
            for node in round {
                let before = &self.rounds[i - 1];
                let parts =
                    before.iter().filter(|part| node.languages.contains(&part.languages[0]));
                let parts: Vec<&str> = parts.map(|part| part.id.as_str()).collect();
                if node.carried {
                    writeln!(f, "          {}, without a partner", node.id)?;
                } else {
                    writeln!(f, "  {:.4}  {}", node.distance, parts.join(" + "))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_distances_and_what_is_known() {
        let distances = Distances::shipped();
        let languages: Vec<String> = ["fr", "en", "es"].map(str::to_owned).to_vec();
        let explanation = Explanation::new(&distances, None, &languages, 1).unwrap();
        assert_eq!(
            explanation.to_string(),
            "          en    fr    es\n\
             en     0.000 0.245 0.159\n\
             fr     0.245 0.000 0.208\n\
             es     0.159 0.208 0.000\n\
             round 1: 2 clusters\n  0.1586  en + es\n          fr, without a partner\n\
             round 2: 1 clusters\n  0.2085  en-es + fr\n"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.csv");
        std::fs::write(&path, "lang,a,1A,c\nen,1,2,0\nes,1,,0\nfr,0,2,0\n").unwrap();
        let features = Features::read(&path, &languages, &[], 1).unwrap();
        let explained =
            Explanation::new(&features.distances(), Some(&features), &languages, 3).unwrap();
        assert_eq!(explained.rounds.len(), 1);
        assert_eq!(explained.known, Some(vec![2, 2, 1]));
        let text = explained.to_string();
        assert!(text.starts_with("2 features, 1 of them categories; 1 more"), "{text}");
        assert!(text.contains("known      2     2     1"), "{text}");
        let json = serde_json::to_value(&explained).unwrap();
        assert_eq!(json["n_constant"], 1);
        assert!(Explanation::new(&distances, None, &languages, 4).is_err());
    }
}
