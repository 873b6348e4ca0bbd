//! Groups of languages as the X-ELM paper's code makes them: single linkage, greedy matching of pairs,
//! round by round.

use super::Distances;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What one expert is trained on: languages, or documents of all languages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The expert's name: of a group of languages, these joined by `-`.
    pub id: String,
    /// Its languages; of a cluster of documents, those that have more here than in any other.
    pub languages: Vec<String>,
    /// The distance at which the cluster's last merge happened; 0 where there was none.
    pub distance: f64,
    /// Training documents of a cluster of documents; absent for a group of languages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
}

/// A cluster of a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    /// Its languages, joined by `-`.
    pub id: String,
    /// Its languages.
    pub languages: Vec<String>,
    /// The distance at which its last merge happened; 0 where there was none.
    pub distance: f64,
    /// It found no partner in this round.
    pub carried: bool,
}

/// Groups `languages` into `k` clusters, numbered in merge order. Where the number of languages is not
/// k · 2ʲ, clusters that find no partner are carried up as they are; their ids are returned.
///
/// # Errors
/// As [`rounds`].
pub fn cluster(
    distances: &Distances,
    languages: &[String],
    k: usize,
) -> Result<(Vec<Cluster>, Vec<String>)> {
    let rounds = rounds(distances, languages, k)?;
    let mut carried: Vec<String> = Vec::new();
    for node in rounds.iter().flatten().filter(|node| node.carried) {
        if !carried.contains(&node.id) {
            carried.push(node.id.clone());
        }
    }
    let clusters = rounds.last().into_iter().flatten().map(|node| Cluster {
        id: node.id.clone(),
        languages: node.languages.clone(),
        distance: node.distance,
        documents: None,
    });
    Ok((clusters.collect(), carried))
}

/// The clusters after every round of merging, from one for each language to `k`.
///
/// # Errors
/// A language is unknown or named twice, or there are fewer languages than clusters.
pub fn rounds(distances: &Distances, languages: &[String], k: usize) -> Result<Vec<Vec<Node>>> {
    let mut indices = Vec::new();
    for language in languages {
        let index = distances.index(language).ok_or_else(|| {
            Error::usage(format!(
                "no typological features of the language {language:?}; known are {}: give others with \
                 --features",
                distances.tags.join(", ")
            ))
        })?;
        if indices.iter().any(|&(i, _)| i == index) {
            return Err(Error::usage(format!("the language {language:?} is named twice")));
        }
        indices.push((index, language));
    }
    if k == 0 || k > indices.len() {
        return Err(Error::usage(format!(
            "{} languages cannot be grouped into {k} clusters",
            indices.len()
        )));
    }
    indices.sort_unstable();
    let tag = |i: &usize| {
        let found = indices.iter().find(|(index, _)| index == i);
        found.map_or_else(String::new, |(_, tag)| (*tag).clone())
    };
    let node = |(members, distance): &Members, carried| {
        let languages: Vec<String> = members.iter().map(tag).collect();
        Node { id: languages.join("-"), languages, distance: *distance, carried }
    };
    let mut clusters: Vec<Members> = indices.iter().map(|&(index, _)| (vec![index], 0.0)).collect();
    let mut rounds = vec![clusters.iter().map(|c| node(c, false)).collect()];
    while clusters.len() > k {
        let (merged, left) = merge_round(distances, clusters, k);
        let nodes = merged.iter().map(|c| node(c, false)).chain(left.iter().map(|c| node(c, true)));
        rounds.push(nodes.collect());
        clusters = merged;
        clusters.extend(left);
    }
    Ok(rounds)
}

/// Indices of languages, and the distance of the last merge.
type Members = (Vec<usize>, f64);

/// One round: repeatedly joins the two nearest clusters that are still without a partner, until all
/// have one or `k` clusters are left. Returns the pairs in the order taken, and those left over.
fn merge_round(
    distances: &Distances,
    clusters: Vec<Members>,
    k: usize,
) -> (Vec<Members>, Vec<Members>) {
    let linkage = |a: &[usize], b: &[usize]| {
        let pairs = a.iter().flat_map(|&x| b.iter().map(move |&y| (x, y)));
        pairs.map(|(x, y)| distances.between(x, y)).fold(f64::INFINITY, f64::min)
    };
    let mut pairs = Vec::new();
    for i in 0..clusters.len() {
        for j in i + 1..clusters.len() {
            pairs.push((linkage(&clusters[i].0, &clusters[j].0), i, j));
        }
    }
    // Stable, so that equal distances keep the order of the list.
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut n_left = clusters.len();
    let mut clusters: Vec<Option<Members>> = clusters.into_iter().map(Some).collect();
    let mut merged = Vec::new();
    for (distance, i, j) in pairs {
        if n_left == k {
            break;
        }
        if let (Some(_), Some(_)) = (&clusters[i], &clusters[j]) {
            let members =
                [i, j].iter().filter_map(|&c| clusters[c].take()).flat_map(|c| c.0).collect();
            merged.push((members, distance));
            n_left -= 1;
        }
    }
    (merged, clusters.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper_languages() -> Vec<String> {
        Distances::shipped().tags[..16].to_vec()
    }

    /// The X-ELM paper's pairs and groups, ids included.
    #[test]
    fn published_pairs_and_groups() {
        let distances = Distances::shipped();
        let run = |k| cluster(&distances, &paper_languages(), k).unwrap();
        let check = |k: usize, expected: &[(&str, f64)]| {
            let (clusters, carried) = run(k);
            assert!(carried.is_empty());
            assert_eq!(clusters.len(), expected.len());
            for (cluster, (languages, distance)) in clusters.iter().zip(expected) {
                let mut found = cluster.languages.clone();
                let mut wanted: Vec<_> = languages.split(' ').map(str::to_owned).collect();
                found.sort();
                wanted.sort();
                assert_eq!(found, wanted);
                assert!((cluster.distance - distance).abs() < 5e-5);
            }
        };
        check(
            8,
            &[
                ("en es", 0.1586),
                ("de el", 0.2020),
                ("ja ko", 0.2022),
                ("hi ur", 0.2584),
                ("bg ru", 0.2722),
                ("fr ar", 0.3042),
                ("tr zh", 0.4604),
                ("vi sw", 0.5762),
            ],
        );
        check(
            4,
            &[
                ("en es bg ru", 0.2054),
                ("ja ko tr zh", 0.2185),
                ("de el fr ar", 0.2682),
                ("hi ur vi sw", 0.5877),
            ],
        );
        check(2, &[("en es bg ru de el fr ar", 0.2055), ("ja ko tr zh hi ur vi sw", 0.2636)]);
        let all = paper_languages().join(" ");
        check(1, &[(&all, 0.2800)]);
        assert_eq!(run(16).0.iter().map(|c| c.id.clone()).collect::<Vec<_>>(), paper_languages());
    }

    #[test]
    fn bundled_languages_form_four_pairs_in_any_order() {
        let languages: Vec<String> =
            "ko ru el es bg de ja en".split(' ').map(str::to_owned).collect();
        let (clusters, carried) = cluster(&Distances::shipped(), &languages, 4).unwrap();
        let ids: Vec<_> = clusters.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["en-es", "de-el", "ja-ko", "bg-ru"]);
        assert!(carried.is_empty());
    }

    #[test]
    fn odd_numbers_lose_no_language() {
        let distances = Distances::shipped();
        for n in 1..=20 {
            for k in 1..=n {
                let (clusters, _) = cluster(&distances, &distances.tags[..n], k).unwrap();
                assert_eq!(clusters.len(), k);
                let mut all: Vec<_> = clusters.iter().flat_map(|c| c.languages.clone()).collect();
                all.sort();
                let mut expected = distances.tags[..n].to_vec();
                expected.sort();
                assert_eq!(all, expected);
            }
        }
        let seven = &distances.tags[..7];
        assert!(!cluster(&distances, seven, 4).unwrap().1.is_empty());
    }

    #[test]
    fn errors() {
        let distances = Distances::shipped();
        let run = |tags: &[&str], k| {
            cluster(&distances, &tags.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), k)
        };
        assert!(run(&["en", "tlh"], 1).is_err());
        assert!(run(&["en", "eng"], 1).is_err());
        assert!(run(&["en", "de"], 3).is_err() && run(&["en"], 0).is_err() && run(&[], 1).is_err());
        assert_eq!(run(&["iw", "ar"], 1).unwrap().0[0].id, "ar-iw");
    }
}
