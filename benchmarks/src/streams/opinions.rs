//! Sentences of four kinds of source that people rated (Hutto and Gilbert 2014, "VADER", ICWSM).
use std::{fs, path::Path};

use anyhow::Context as _;

use super::Text;

/// A domain, and its file.
const DOMAINS: [(&str, &str); 4] = [
    ("films", "movieReviewSnippets_GroundTruth.txt"),
    ("goods", "amazonReviewSnippets_GroundTruth.txt"),
    ("editorials", "nytEditorialSnippets_GroundTruth.txt"),
    ("tweets", "tweets_GroundTruth.txt"),
];

/// Texts of each domain: as many as the smallest has, nearly.
const OF_EACH: usize = 2_500;

/// A mean of twenty ratings from -4 to 4 that is nearer to 0 is no opinion.
const LEAST: f64 = 0.5;

/// Domain after domain, in a random order within: the files are sorted by what they say.
///
/// # Errors
/// When the folder is not what `setup/opinions.sh` unpacked; names the file.
pub fn opinions(folder: &Path) -> anyhow::Result<Vec<Text>> {
    let mut all = Vec::new();
    for (domain, file) in DOMAINS {
        let path = folder.join(file);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let mut texts = Vec::new();
        for (at, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            let place = || format!("{}, line {}", path.display(), at + 1);
            let mut fields = line.splitn(3, '\t');
            let (Some(id), Some(rating), Some(text)) =
                (fields.next(), fields.next(), fields.next())
            else {
                anyhow::bail!("{}: three fields are expected", place());
            };
            let rating: f64 = rating.trim().parse().with_context(place)?;
            if rating.abs() < LEAST {
                continue;
            }
            let label = if rating > 0.0 { "positive" } else { "negative" };
            let (id, text) = (format!("{domain}-{id}"), text.to_owned());
            texts.push(Text { id, domain, text, label, date: None });
        }
        texts.sort_by(|a, b| a.draw("order").total_cmp(&b.draw("order")));
        texts.truncate(OF_EACH);
        all.extend(texts);
    }
    Ok(all)
}
