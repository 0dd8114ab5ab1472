//! Changes `data:` in the text of a suite and leaves everything else as its author wrote it.
use anyhow::{Context as _, ensure};
use tidegate_contracts::{JobKind, Tier};
use tidegate_evaluation::{DataDraft, Role, Suite};

/// The text with these entries, each of which that is not pinned yet written on a line of its own.
pub(super) fn pinned(text: &str, entries: &[(DataDraft, bool)]) -> anyhow::Result<String> {
    let lines: Vec<&str> = text.lines().collect();
    let section = Section::find(&lines).context(BY_HAND)?;
    ensure!(section.items.len() == entries.len(), BY_HAND);
    let mut new: Vec<String> =
        lines[..section.from].iter().map(|line| (*line).to_owned()).collect();
    for (at, (draft, is_pinned)) in entries.iter().enumerate() {
        let start = section.items[at];
        let end = section.items.get(at + 1).copied().unwrap_or(section.to);
        let rest = if *is_pinned {
            &lines[start..end]
        } else {
            new.push(item(section.indent, draft));
            // Comments and blank lines between entries are kept.
            let own = lines[start..end].iter().rposition(|line| !is_comment(line)).unwrap_or(0);
            &lines[start + own + 1..end]
        };
        new.extend(rest.iter().map(|line| (*line).to_owned()));
    }
    new.extend(lines[section.to..].iter().map(|line| (*line).to_owned()));
    verified(new, &entries.iter().map(|(draft, _)| draft.clone()).collect::<Vec<_>>())
}

/// The text with one more entry behind those that it has.
pub(super) fn added(text: &str, draft: &DataDraft) -> anyhow::Result<String> {
    let mut entries = Suite::drafts(text)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut new: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    match Section::find(&lines) {
        Some(section) => new.insert(section.to, item(section.indent, draft)),
        None => {
            let checks = lines.iter().position(|line| line.starts_with("checks:"));
            let at = checks.context(BY_HAND)?;
            new.insert(at, item(2, draft));
            new.insert(at, "data:".to_owned());
        }
    }
    entries.push(draft.clone());
    verified(new, &entries)
}

const BY_HAND: &str = "the suite's `data` is written in another way than as a list, an entry a line: \
    change it by hand";

/// Nothing is written that does not say what it should.
fn verified(lines: Vec<String>, entries: &[DataDraft]) -> anyhow::Result<String> {
    let text = lines.join("\n") + "\n";
    ensure!(Suite::drafts(&text).context(BY_HAND)? == entries, BY_HAND);
    Ok(text)
}

/// Where the entries of `data:` stand.
struct Section {
    /// The line of the first.
    from: usize,
    /// The line behind the last.
    to: usize,
    items: Vec<usize>,
    indent: usize,
}

impl Section {
    /// `None` where there is no list under `data:`.
    fn find(lines: &[&str]) -> Option<Self> {
        let head = lines.iter().position(|line| {
            line.strip_prefix("data:").is_some_and(|rest| is_comment(rest.trim()))
        })?;
        let indent_of = |line: &str| line.len() - line.trim_start().len();
        let is_item = |line: &str| line.trim_start().starts_with("- ");
        let inside =
            |line: &&&str| is_comment(line) || line.starts_with(' ') || line.starts_with("- ");
        let end = head + 1 + lines[head + 1..].iter().take_while(inside).count();
        let from = (head + 1..end).find(|&at| is_item(lines[at]))?;
        let indent = indent_of(lines[from]);
        let starts = |&at: &usize| is_item(lines[at]) && indent_of(lines[at]) == indent;
        let items = (from..end).filter(starts).collect();
        // What stands between the last entry and what follows belongs to that.
        let to = 1 + (from..end).rfind(|&at| !is_comment(lines[at]))?;
        Some(Self { from, to, items, indent })
    }
}

/// A comment or nothing.
fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn item(indent: usize, draft: &DataDraft) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut fields = vec![format!("id: {}", quoted(&draft.id))];
    fields.push(format!("tier: {}", draft.tier.as_str()));
    if draft.role == Role::Past {
        fields.push("role: past".to_owned());
    }
    fields.push(format!("path: {}", quoted(&draft.path)));
    if let Some(sha256) = &draft.sha256 {
        fields.push(format!("sha256: {}", quoted(sha256.as_str())));
    }
    if let Some(rows) = draft.rows {
        fields.push(format!("rows: {rows}"));
    }
    if let Some(budget) = draft.query_budget {
        fields.push(format!("query_budget: {budget}"));
    }
    if let Some(kinds) = draft.opened_by.as_ref().filter(|_| draft.tier == Tier::Sealed) {
        let kinds: Vec<String> = kinds.iter().map(JobKind::to_string).collect();
        fields.push(format!("opened_by: [{}]", kinds.join(", ")));
    }
    format!("{:indent$}- {{{}}}", "", fields.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: &str = "# A suite.\nformat: 1\nname: s\nversion: '1'\n\n# All of it.\nchecks:\n  - {id: \
        a, layer: quality, metric: accuracy, floor: 0.5, severity: block}\n";

    fn draft(id: &str) -> DataDraft {
        DataDraft {
            id: id.to_owned(),
            tier: Tier::Sealed,
            role: Role::Judge,
            path: format!("data/{id}.jsonl"),
            sha256: Some("0f".repeat(32).parse().unwrap()),
            rows: Some(3),
            query_budget: Some(9),
            opened_by: Some(vec![JobKind::ColdStart, JobKind::Transfer]),
        }
    }

    #[test]
    fn entries_are_added_one_by_one_and_all_else_stays() {
        let one = added(SUITE, &draft("q1")).unwrap();
        let two = added(&one, &draft("q2")).unwrap();
        assert_eq!(Suite::drafts(&two).unwrap(), [draft("q1"), draft("q2")]);
        assert!(two.starts_with("# A suite.\n") && two.contains("# All of it.\n"), "{two}");
        let without: Vec<&str> = two
            .lines()
            .filter(|line| *line != "data:" && !line.trim_start().starts_with("- {id: \"q"))
            .collect();
        assert_eq!(without.join("\n") + "\n", SUITE);
    }

    #[test]
    fn an_entry_over_several_lines_is_pinned_and_its_neighbours_stay() {
        let text = SUITE.replace(
            "# All of it.",
            "data:\n  # The first.\n  - id: q1\n    tier: sealed\n    path: data/q1.jsonl\n    \
             query_budget: 9\n    opened_by: [cold_start, transfer]\n\n  # The second.\n  - {id: q2, \
             tier: open, path: b.jsonl}\n# All of it.",
        );
        let second = Suite::drafts(&text).unwrap().remove(1);
        let new = pinned(&text, &[(draft("q1"), false), (second.clone(), true)]).unwrap();
        assert_eq!(Suite::drafts(&new).unwrap(), [draft("q1"), second]);
        for kept in ["# The first.", "# The second.", "  - {id: q2, tier: open, path: b.jsonl}"] {
            assert!(new.contains(kept), "{new}");
        }
    }

    #[test]
    fn what_is_written_in_another_way_is_left_to_its_author() {
        let text = SUITE.replace("# All of it.", "data: [{id: q1, tier: open, path: a.jsonl}]");
        let error = pinned(&text, &[(draft("q1"), false)]).unwrap_err().to_string();
        assert!(error.contains("by hand"), "{error}");
        let error = added(&text, &draft("q2")).unwrap_err().to_string();
        assert!(error.contains("by hand"), "{error}");
    }
}
