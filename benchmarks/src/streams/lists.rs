//! Which mailing list a wanted mail of the corpus came from.
use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::Deserialize;

use super::{Text, of_mail};
use crate::corpus;

/// A class, and what its `List-Id` or, where there is none, its sender has in it.
const LISTS: [(&str, &[&str]); 8] = [
    ("fork", &["fork.xent.com"]),
    ("ilug", &["ilug.linux.ie", "social.linux.ie", "webdev.linux.ie"]),
    ("rpm", &["rpm-zzzlist.freshrpms.net"]),
    ("spamassassin", &["spamassassin-talk.", "spamassassin-devel.", "spamassassin-commits."]),
    ("exmh", &["exmh-workers.", "exmh-users."]),
    ("razor", &["razor-users."]),
    ("feeds", &["rssfeeds@"]),
    ("newsletters", &["newsletter.online.com", "cnet-newsletters", "lockergnome.com"]),
];

#[derive(Deserialize)]
struct Stored {
    checksum: Checksum,
    text: String,
}

#[derive(Deserialize)]
struct Checksum {
    value: String,
}

/// Whether a mail keeps what says outright where it is from: the list's name in brackets in the
/// subject, and all from the line that begins a signature or a footer on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As delivered.
    Kept,
    /// Told by what it is about.
    Cut,
}

/// Mails of eight lists in order of delivery.
///
/// # Errors
/// When the folder is not the unpacked corpus; names the file.
pub fn lists(folder: &Path, names: Names) -> anyhow::Result<Vec<Text>> {
    let mut labels = BTreeMap::new();
    for group in ["easy-ham-1", "easy-ham-2", "hard-ham-1"] {
        let path = folder.join("data").join(group);
        for file in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let file = file?.path();
            if file.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
            let stored: Stored =
                serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?;
            if let Some(list) = list(&stored.text) {
                labels.insert(format!("mail-{}", stored.checksum.value), list);
            }
        }
    }
    let mails = corpus::mails(folder)?.into_iter().map(of_mail);
    let text = |mut mail: Text| {
        mail.label = labels.get(&mail.id)?;
        if names == Names::Cut {
            mail.text = without_name(&mail.text);
        }
        (!mail.text.trim().is_empty()).then_some(mail)
    };
    Ok(mails.filter_map(text).collect())
}

fn list(mail: &str) -> Option<&'static str> {
    let head = mail.split_once("\n\n").map_or(mail, |(head, _)| head);
    let unfolded = head.replace("\n ", " ").replace("\n\t", " ").to_lowercase();
    let header = |name: &str| unfolded.lines().find_map(|line| line.strip_prefix(name));
    let from = header("list-id:").or_else(|| header("from:"))?;
    LISTS.iter().find(|(_, marks)| marks.iter().any(|mark| from.contains(mark))).map(|(l, _)| *l)
}

fn without_name(text: &str) -> String {
    let (subject, body) = text.split_once('\n').unwrap_or((text, ""));
    let mut plain = String::with_capacity(text.len());
    let mut rest = subject;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let footer = |line: &&str| {
        line.trim_end() == "--" || line.starts_with("_____") || line.starts_with("-----")
    };
    for line in body.lines().take_while(|line| !footer(line)) {
        plain.push('\n');
        plain.push_str(line);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_of_the_list_in_its_headers_and_does_not_name_it() {
        let mail = "From: joe@example.com\nList-Id: Irish Linux\n\t<ilug.linux.ie>\n\nHi";
        assert_eq!(list(mail), Some("ilug"));
        assert_eq!(list("From: boing <rssfeeds@spamassassin.taint.org>\n\nHi"), Some("feeds"));
        assert_eq!(list("From: joe@example.com\n\nList-Id: <ilug.linux.ie>"), None);
        let text = "Re: [ILUG] kernels\nWhich one?\n-- \nIrish Linux Users' Group";
        assert_eq!(without_name(text), "Re:  kernels\nWhich one?");
    }
}
