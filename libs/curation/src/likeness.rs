//! Whether two events say the same: what the duplicate stages ask, for who has to ask it again.
use tidegate_contracts::{Event, Part};

use crate::{
    NearConfig,
    exact::{NO_CONTENT, content_key},
    minhash,
    near::{Near, Seen},
    record::normalise,
};

/// A hash of what an event says, whatever its id: its text but for case and white space, its
/// pictures, sounds and features. `None` for features alone, since equal rows are no mistake.
#[must_use]
pub fn content(event: &Event) -> Option<u128> {
    Some(content_key(event, &normalise(&event.text()))).filter(|key| *key != NO_CONTENT)
}

/// Hashes of the shingles of a text, as [`LikeTexts`] compares them.
#[must_use]
pub fn shingles(text: &str, config: &NearConfig) -> Vec<u32> {
    minhash::shingles(&normalise(text), config.unit, config.shingle, config.max_shingles)
}

/// The newest `capacity` texts, and which of them another one is like.
pub struct LikeTexts(Near);

impl LikeTexts {
    /// Like each other are texts of an estimated similarity of `config.threshold` or more.
    #[must_use]
    pub fn new(config: &NearConfig) -> Self {
        Self(Near::new(config))
    }

    /// Remembers the text of an event; only where it is all that the event has, as beside a picture
    /// the same words may say something else.
    pub fn remember(&mut self, event: &Event) {
        if let Some(text) = only_text(&event.parts) {
            let (signature, id) = (self.0.signature(&text), event.id.as_str().into());
            self.0.remember(Seen { signature, id });
        }
    }

    /// The id of the remembered text that these parts are most like, and how like it is.
    #[must_use]
    pub fn find(&self, parts: &[Part]) -> Option<(String, f64)> {
        let text = only_text(parts)?;
        let (seen, similarity) = self.0.find(&self.0.signature(&text))?;
        Some((seen.id.to_string(), similarity))
    }
}

impl std::fmt::Debug for LikeTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LikeTexts").finish_non_exhaustive()
    }
}

/// Normalised; `None` where there is none, or more than text.
fn only_text(parts: &[Part]) -> Option<String> {
    let each = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        _ => None,
    };
    let text = normalise(&parts.iter().map(each).collect::<Option<Vec<String>>>()?.join(" "));
    (!text.is_empty()).then_some(text)
}
