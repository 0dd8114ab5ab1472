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

/// What a term does alone is the question: nothing is replayed.
const ALONE: &str = "[rehearsal]\nshare = 0.0\n";
/// Nor held to the champion's answers.
const PLAIN: &str = "[distillation]\nweight = 0.0\n";
/// The wide path goes through a window many times, and the deep path hardly moves.
const WIDE: &str = "[hot_update]\nepochs = 6\ndeep_every = 48\nbalance = 1.0\n\
                    [rehearsal]\nshare = 0.5\ncapacity = 5000\n";

const METHODS: [(&str, &[&str]); 10] = [
    ("default recipe", &[]),
    ("many passes of the wide path", &[WIDE, PLAIN]),
    ("fine-tuning, nothing else", &[ALONE, PLAIN]),
    ("rehearsal", &[PLAIN]),
    ("rehearsal and DER++", &[PLAIN, "[der]\nalpha = 0.3\nbeta = 1.0\n"]),
    ("LwF", &[ALONE, "[distillation]\nweight = 0.0\nfresh_weight = 0.5\n"]),
    ("EWC", &[ALONE, PLAIN, "[ewc]\nweight = 100.0\n"]),
    ("L2 to start", &[ALONE, PLAIN, "[l2_to_start]\nweight = 0.1\n"]),
    ("frozen router", &[ALONE, PLAIN, "[method]\ntrain = \"frozen_router\"\n"]),
    ("adapters (LoRA and head)", &[ALONE, PLAIN, "[method]\ntrain = \"adapters\"\n"]),
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
