//! What is compared: recipes, as an operator writes them.
use anyhow::Context as _;
use tidegate_learning::Recipe;

/// A way to learn task after task.
pub(crate) struct Method {
    pub(crate) name: String,
    /// What it changes of the default recipe.
    pub(crate) toml: String,
    pub(crate) recipe: Recipe,
    /// From nothing after each task, on all tasks so far.
    pub(crate) joint: bool,
}

/// What a term does alone is the question: both paths learn in all steps of one pass, nothing is
/// counted, replayed or weighed.
const ALONE: &str = "hot_update = { epochs = 1, deep_every = 1, balance = 0.5 }\n\
                     counting = { smoothing = 0.0 }\n";
const NOTHING_REPLAYED: &str = "rehearsal = { share = 0.0 }\n";
const REHEARSAL: &str = "rehearsal = { share = 0.25, capacity = 1500 }\n";

const METHODS: [(&str, &[&str]); 11] = [
    ("default recipe", &[]),
    ("default without counting", &["counting = { smoothing = 0.0 }\n"]),
    (
        "default, both paths in all steps",
        &["hot_update = { epochs = 1, deep_every = 1, balance = 0.5 }\n"],
    ),
    ("fine-tuning, nothing else", &[ALONE, NOTHING_REPLAYED]),
    ("rehearsal", &[ALONE, REHEARSAL]),
    ("rehearsal and DER++", &[ALONE, REHEARSAL, "der = { alpha = 0.3, beta = 1.0 }\n"]),
    ("LwF", &[ALONE, NOTHING_REPLAYED, "distillation = { fresh_weight = 0.5 }\n"]),
    ("EWC", &[ALONE, NOTHING_REPLAYED, "ewc = { weight = 100.0 }\n"]),
    ("L2 to start", &[ALONE, NOTHING_REPLAYED, "l2_to_start = { weight = 0.1 }\n"]),
    ("frozen router", &[ALONE, NOTHING_REPLAYED, "method = { train = \"frozen_router\" }\n"]),
    ("adapters (LoRA and head)", &[ALONE, NOTHING_REPLAYED, "method = { train = \"adapters\" }\n"]),
];

/// Those whose name begins with one of `chosen`, or all; and `own`, a recipe's text, as another.
pub(crate) fn all(chosen: &[String], own: Option<String>) -> anyhow::Result<Vec<Method>> {
    let mut texts: Vec<(String, String)> =
        METHODS.iter().map(|(name, parts)| ((*name).to_owned(), parts.concat())).collect();
    texts.extend(own.map(|toml| ("own recipe".to_owned(), toml)));
    let mut methods = Vec::new();
    for (name, toml) in texts {
        let recipe = Recipe::from_toml(&toml).with_context(|| name.clone())?;
        methods.push(Method { name, toml, recipe, joint: false });
    }
    let name = "joint retraining".to_owned();
    let (toml, recipe) = (String::new(), Recipe::default());
    methods.push(Method { name, toml, recipe, joint: true });
    methods.retain(|method| {
        chosen.is_empty() || chosen.iter().any(|start| method.name.starts_with(start.as_str()))
    });
    anyhow::ensure!(!methods.is_empty(), "--methods: none of these is known");
    Ok(methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_a_recipe_of_its_own() {
        let methods = all(&[], None).unwrap();
        for (at, one) in methods.iter().enumerate() {
            for other in &methods[at + 1..] {
                let same = one.recipe == other.recipe && one.joint == other.joint;
                assert!(!same, "{} and {}", one.name, other.name);
            }
        }
        assert!(methods[0].recipe == Recipe::default());
        assert!(all(&["no such".to_owned()], None).is_err());
    }
}
